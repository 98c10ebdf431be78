"""Choice of the classes that a report shows where a dataset has too many."""

from __future__ import annotations

from ..analysis.detection_analysis import ClassOfData

MOST_CLASSES = 40


def shown_classes(classes: tuple[ClassOfData, ...]) -> list[int]:
    """Return the indices of all classes, or of the most frequent and the rarest ones."""
    if len(classes) <= MOST_CLASSES:
        return list(range(len(classes)))
    half = MOST_CLASSES // 2
    return [*range(half), *range(len(classes) - half, len(classes))]


def left_out_classes(classes: tuple[ClassOfData, ...], file: str) -> str:
    """Return the end of a caption if not all classes are shown; ``file`` has all of them."""
    if len(classes) <= MOST_CLASSES:
        return ""
    return (
        f" Of {len(classes)} classes, the {MOST_CLASSES // 2} most frequent and the "
        f"{MOST_CLASSES // 2} rarest; {file} has all."
    )
