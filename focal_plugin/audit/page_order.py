"""Classes that a page shows if a dataset has too many for it: the worst ones."""

from __future__ import annotations

from typing import Any

Facts = dict[str, Any]


def worst_classes(facts: Facts, most: int) -> list[int]:
    """Return at most ``most`` classes with objects, those with the lowest recall first."""
    rows = facts["anchors"]["per_class"]
    present = [index for index, row in enumerate(rows) if row["objects"]]
    present.sort(key=lambda c: (rows[c]["recall"]["0.5"], rows[c]["positives_over_objects"] or 0))
    return present[:most]


def left_out(facts: Facts, shown: int) -> str:
    """Return the end of a caption if not all classes with objects are shown."""
    present = sum(row["objects"] > 0 for row in facts["anchors"]["per_class"])
    if present <= shown:
        return ""
    return f" Of {present:,} classes with objects, the {shown} with the lowest recall are shown."
