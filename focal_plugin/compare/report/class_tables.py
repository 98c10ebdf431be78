"""Tables of the differences by class, by group of classes and by object size."""

from __future__ import annotations

from collections.abc import Iterable

from ...pages.table import Table
from ...pages.text import count_text, p_text, plain
from ..analysis.class_differences import (
    GROUPS,
    LVIS_LIMITS,
    ClassDifferences,
    Tested,
)
from ..analysis.size_differences import SIZES
from ..analysis.summary import Summary
from ..plan.design import FEWEST_SEEDS
from .cells import compared_text, difference_text
from .csv_tables import COMPARED, Cell, compared_cells
from .shown_classes import table_of_classes

LETTERS = dict(zip(GROUPS, ("APr", "APc", "APf"), strict=True))
COUNTED = {
    "images": "training images",
    "objects": "training objects",
    "frequency": "frequency in the ground truth",
}
INTERVAL = "Arm minus reference, paired by seed, with the 95% t interval of the mean."


def secondary_lead(summary: Summary) -> str:
    """Return what the differences by class can and cannot say; "" without differences."""
    if _differences(summary) is None:
        return ""
    return (
        "This is a secondary analysis, because the verdicts are about AP alone. It says where a "
        "difference comes from, and it gives no verdict."
    )


def difference_tables(summary: Summary) -> list[Table]:
    """Return the tables by group of classes, by class and by object size."""
    made = (group_table, class_difference_table, size_difference_table)
    return [table for table in (make(summary) for make in made) if table is not None]


def group_table(summary: Summary) -> Table | None:
    """Return APr, APc and APf of all arms with their differences; None for fewer groups."""
    found = _differences(summary)
    if found is None or not found.groups:
        return None
    header = ["arm"]
    for group in found.groups:
        header += [f"{LETTERS[group.name]} ({group.name})", "difference"]
    rows = [
        (plain(arm), *(cell for c in of_arm for cell in (compared_text(c), difference_text(c))))
        for arm, of_arm in found.by_group.items()
    ]
    return Table(
        name="class-groups",
        header=tuple(header),
        rows=tuple(rows),
        caption=(
            "Mean AP of the classes of a group, percent, mean ± standard deviation between the "
            f"seeds. {INTERVAL} {_groups_text(found)}"
        ),
    )


def class_difference_table(summary: Summary) -> Table | None:
    """Return the difference of each class for each arm; None without two arms."""
    found = _differences(summary)
    if found is None:
        return None
    arms = [arm for arm in summary.arms if arm != summary.reference]
    return table_of_classes(
        summary,
        "class-differences",
        {arm: [_tested_text(tested) for tested in found.classes[arm]] for arm in arms},
        trained=summary.trained,
        caption=(
            f"Difference in AP, percentage points. {INTERVAL} The intervals are not adjusted. p is "
            f"that of the paired t test after Holm over {count_text(found.tests, 'test')}, one per "
            f"class and arm. There is no p with fewer than {FEWEST_SEEDS} seeds, or while a run "
            f"is still to come."
        ),
        file="class_differences.csv",
    )


def size_difference_table(summary: Summary) -> Table | None:
    """Return the differences by object size; None without two arms."""
    sizes = [m for m in SIZES if any(of_arm[m].pairs for of_arm in summary.sizes.values())]
    if not sizes:
        return None
    rows = [
        (plain(arm), *(difference_text(of_arm[metric]) for metric in sizes))
        for arm, of_arm in summary.sizes.items()
        if arm != summary.reference
    ]
    return Table(
        name="size-differences",
        header=("arm", *sizes),
        rows=tuple(rows),
        caption=(
            f"Differences in the averages above, percentage points. {INTERVAL} The intervals are "
            "not adjusted. A run that detected nothing counts as 0."
        ),
    )


def class_difference_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per class and arm."""
    yield ["class", "category_id", "train_objects", "train_images", "arm", *COMPARED, "p_holm"]
    found = summary.class_differences
    for arm, of_arm in () if found is None else found.classes.items():
        for data, tested in zip(summary.detections.classes, of_arm, strict=True):
            head: list[Cell] = [data.label, data.category_id, data.train_objects, data.train_images]
            yield [*head, arm, *compared_cells(tested), tested.p]


def part_difference_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per group of classes, or per size, and arm."""
    yield ["part", "classes", "fewest", "most", "counted", "arm", *COMPARED]
    found = summary.class_differences
    for i, group in enumerate(found.groups if found else ()):
        assert found is not None
        head: list[Cell] = [LETTERS[group.name], len(group.classes), group.fewest, group.most]
        for arm, of_arm in found.by_group.items():
            yield [*head, COUNTED[found.counted], arm, *compared_cells(of_arm[i])]
    for metric in SIZES:
        for arm, sizes in summary.sizes.items():
            yield [metric, None, None, None, None, arm, *compared_cells(sizes[metric])]


def _differences(summary: Summary) -> ClassDifferences | None:
    return summary.class_differences if len(summary.arms) > 1 else None


def _tested_text(found: Tested) -> str:
    text = difference_text(found)
    return text if found.p is None else f"{text}, p {p_text(found.p)}"


def _groups_text(found: ClassDifferences) -> str:
    sizes = [f"{len(group.classes)} {group.name}" for group in found.groups]
    if found.counted == "frequency":
        return f"The ground truth states the groups, as in LVIS. Classes: {'; '.join(sizes)}."
    counts = "; ".join(
        f"{size}, with {_range(group.fewest or 0, group.most or 0)}"
        for size, group in zip(sizes, found.groups, strict=True)
    )
    if found.counted == "images":
        rule = f"A class is rare up to {LVIS_LIMITS[0]} training images, common up to "
        rule += f"{LVIS_LIMITS[1]}, and else frequent, as in LVIS"
    else:
        rule = "The limits are the terciles of the training objects of the classes"
    return f"{rule}. Classes: {counts} {found.counted}."


def _range(fewest: int, most: int) -> str:
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
