"""Tables by class, and the choice of the classes that they show where a dataset has too many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...pages.table import Table
from ...pages.text import NOTHING, plain
from ..analysis.detection_analysis import ClassOfData
from ..analysis.summary import Summary

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


def table_of_classes(
    summary: Summary,
    name: str,
    cells: Mapping[str, Sequence[str]],
    *,
    trained: bool,
    caption: str,
    file: str,
) -> Table:
    """
    Return a table of classes and arms. The longer of the two has the rows.

    Args:
        name: name of the table.
        cells: arm -> text of each class, in the order of the classes.
        trained: count the objects of the training data instead of the test data.
        caption: caption, to which a sentence on left-out classes is added.
        file: CSV that has all classes.
    """
    classes = summary.detections.classes
    data = "training" if trained else "test"
    header: tuple[str, ...] = ("class", f"objects, {data}", *map(plain, cells))
    rows = []
    for i in shown_classes(classes):
        objects = classes[i].train_objects if trained else classes[i].val_objects
        count = NOTHING if objects is None else f"{objects:,}"
        rows.append((plain(classes[i].label), count, *(of_arm[i] for of_arm in cells.values())))
    if len(cells) > len(rows):  # a long table is easier to read than a wide one
        header, *rows = zip(header, *rows, strict=True)
    return Table(name, header, tuple(rows), caption + left_out_classes(classes, file))
