"""Proposal as a commented fragment of a config."""

from __future__ import annotations

from typing import Any

import yaml

from ..pages.text import plain

ROWS = 10
"""Classes with the lowest recall that are listed."""

WITHOUT_PROPOSAL = {
    "enough": "The anchors reach 99% of the objects of every class, so nothing is proposed.",
    "none": "No other sizes and ratios reach clearly more objects, so nothing is proposed.",
    "empty": "There are no objects, so nothing is proposed.",
    "not searched": "Better anchors were not searched for.",
    "unsupported": "The levels have different numbers of anchors, so nothing is proposed.",
}
"""Status without a proposal -> the reason."""


def proposal_yaml(facts: dict[str, Any]) -> str:
    """
    Return the keys of a proposal as YAML, for a config with the audited one as its `_BASE_`.

    Args:
        facts: result of :func:`~focal_plugin.audit.proposal.propose_anchors`.

    Returns:
        YAML with comments; without a proposal only a comment, which says why.
    """
    if facts["status"] != "proposed":
        return f"# {WITHOUT_PROPOSAL[facts['status']]}\n"
    keys = dict(zip(facts["opts"][0::2], facts["opts"][1::2], strict=True))
    levels = [
        f"{plain(name)}, stride {stride}"
        for name, stride in zip(facts["levels"], facts["strides"], strict=True)
    ]
    lines = [
        *_recall_lines(facts),
        "MODEL:",
        "  ANCHOR_GENERATOR:",
        *(f"    NAME: {keys[key]}" for key in ["MODEL.ANCHOR_GENERATOR.NAME"] if key in keys),
        "    # Pixels of the network's input, for each level",
        *_lists("SIZES", keys["MODEL.ANCHOR_GENERATOR.SIZES"], levels),
        "    # Height over width",
        *_lists("ASPECT_RATIOS", keys["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"], ["all levels"]),
    ]
    of_input = [(key, value) for key, value in keys.items() if key.startswith("INPUT.")]
    if of_input:
        lines += [
            f"# {facts['cost']:.3g} times the pixels, so a step takes about as much longer",
            "INPUT:",
            *(f"  {key.removeprefix('INPUT.')}: {value}" for key, value in of_input),
        ]
    return "\n".join(lines) + "\n"


def _lists(name: str, value: str, comments: list[str]) -> list[str]:
    parts = zip(yaml.safe_load(value), comments, strict=True)
    return [f"    {name}:", *(f"      - {part}  # {comment}" for part, comment in parts)]


def _recall_lines(facts: dict[str, Any]) -> list[str]:
    """Return comments with the recall before and after, the worst class first."""
    before, after = facts["before"], facts["after"]
    counted = f"{facts['evaluated']:,}"
    if facts["evaluated"] < facts["objects"]:
        counted += f" of {facts['objects']:,}"
    rows = [row for row in facts["per_class"] if row["before"] is not None]
    rows.sort(key=lambda row: row["before"])
    lines = [
        f"# Anchors for {plain(', '.join(facts['train']))}",
        f"# Share of {counted} objects with an anchor of IoU .5, before and after:",
        _recall_line(before["recall"], after["recall"], "all objects"),
        *(_recall_line(row["before"], row["after"], row["name"]) for row in rows[:ROWS]),
    ]
    more = len(rows) - ROWS
    return [*lines, f"#   and {more:,} more classes"] if more > 0 else lines


def _recall_line(before: float, after: float, name: str) -> str:
    return f"#   {before:.3f}  {after:.3f}  {plain(name)}"
