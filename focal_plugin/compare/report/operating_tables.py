"""Tables of operating points, confusions, calibration and oLRP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ...pages.table import Table
from ...pages.text import NOTHING, count_text, listed, number_text, plain
from ..analysis.decisions import (
    NO_PERCENT,
    OF_CLASSES,
    QUANTITIES,
    ConfusionCell,
    Decisions,
)
from ..analysis.detections.calibration import BINS
from ..analysis.paired import Compared
from ..analysis.summary import Summary
from .captions import CUT_OFF
from .cells import compared_text, difference_text
from .class_tables import INTERVAL
from .csv_tables import COMPARED, Cell, compared_cells
from .shown_classes import table_of_classes

MOST_CONFUSIONS = 12
LARGE_COST = 5.0
"""F1, in percent, that the thresholds of the classes may cost an arm without a remark."""
_BIN = ("detections", "share", "score", "precision", "low", "high")
BACKGROUND, MISSED = "background", "missed"

_OPERATING = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "f1_one_threshold": "F1, one threshold",
    "threshold": "this threshold",
    "f1_fixed": "F1 at .5",
    "false_positives": "false positives per empty image",
}
_CALIBRATION = {"d_ece": "D-ECE", "laece0": "LaECE0", "bias": "score minus precision"}
_LRP = {
    "olrp": "oLRP",
    "olrp_localisation": "localisation",
    "olrp_false_positives": "false positives",
    "olrp_false_negatives": "false negatives",
}


def operating_lead(summary: Summary) -> str:
    """Return how thresholds are chosen, and how many images have no object."""
    found = summary.detections.decisions
    if found is None:
        return ""
    empty = f"{found.empty_images:,} of {count_text(summary.detections.images, 'test image')}"
    have = "has" if found.empty_images == 1 else "have"
    images = f"{empty} {have} no object."
    if not found.empty_images:
        images = "No test image is without objects, so there are no false positives on such images."
    return (
        "The score threshold of a class is the one with the largest F1. It is chosen on one half "
        "of the test images and scored on the other, and the other way round. "
        f"{images}{_costly_thresholds(found)}"
    )


def _costly_thresholds(found: Decisions) -> str:
    """Return which arms lose much F1 by the thresholds of single classes; "" if none does."""
    costs = {}
    for arm, of_arm in found.arms.items():
        own, one = (of_arm.quantities[name].mean for name in ("f1", "f1_one_threshold"))
        if own is not None and one is not None and one - own > LARGE_COST:
            costs[arm] = one - own
    if not costs:
        return ""
    named = listed([f"{plain(arm)} {cost:.0f}" for arm, cost in costs.items()], most=len(costs))
    return (
        f" Against one threshold for all classes, the thresholds of the classes cost F1: {named}. "
        f"A class that is hardly found takes a low threshold and adds many false detections. So "
        f"compare these arms by F1 at one threshold, and not by their precision, F1, confusions or "
        f"false positives."
    )


def operating_tables(summary: Summary) -> list[Table]:
    """Return precision, recall and F1 at the thresholds, and their differences."""
    return _tables(
        summary,
        "operating",
        _OPERATING,
        (
            "Percent but for the threshold and the false positives; mean ± standard deviation "
            "between the seeds. Precision, recall and F1 are those of all detections above the "
            "thresholds of their classes, at IoU .5. Few objects make a poor choice of a "
            "threshold, so one threshold for all classes can be better. An empty image has no "
            "object."
        ),
    )


def calibration_tables(summary: Summary) -> list[Table]:
    """Return the calibration errors of the scores, and their differences."""
    return _tables(
        summary,
        "calibration",
        _CALIBRATION,
        (
            f"Percent, mean ± standard deviation between the seeds, of the detections with a score "
            f"of at least {CUT_OFF}, in {BINS} bins. D-ECE is the mean distance of score and "
            f"precision at IoU .5, all classes together. LaECE0 is the mean distance of score and "
            f"IoU with the object, as a mean over the classes. A positive score minus precision is "
            f"over-confident on average."
        ),
    )


def lrp_tables(summary: Summary) -> list[Table]:
    """Return oLRP with its components, and their differences."""
    return _tables(
        summary,
        "olrp",
        _LRP,
        (
            "Percent, mean over the classes, then mean ± standard deviation between the seeds; 0 "
            "is best. oLRP is the smallest LRP error over all score thresholds, at IoU .5. At this "
            "threshold, localisation is the mean of 1 - IoU, and the others are 1 - precision and "
            "1 - recall."
        ),
    )


def threshold_table(summary: Summary) -> Table | None:
    """Return the F1 and the threshold of each class for each arm; None without an evaluation."""
    found = summary.detections.decisions
    if found is None:
        return None
    places = range(len(summary.detections.classes))
    return table_of_classes(
        summary,
        "thresholds",
        {
            arm: [_f1_text(found.arms[arm].classes, place) for place in places]
            for arm in summary.arms
        },
        trained=False,
        caption=(
            "F1 in percent, mean ± standard deviation between the seeds, at the mean threshold of "
            "the two halves. A class without a correct detection on one half has the threshold of "
            "all classes together. decisions_by_class.csv has precision, recall, the other errors "
            "and all differences."
        ),
        file="decisions_by_class.csv",
    )


def confusion_table(summary: Summary) -> Table | None:
    """Return the most frequent confusions; None without any."""
    found = summary.detections.decisions
    if found is None:
        return None
    wrong = [i for i, cell in enumerate(found.cells) if cell.true != cell.predicted]
    arms = [arm for arm in summary.arms if found.arms[arm].confusion]
    wrong.sort(key=lambda i: -max(found.arms[arm].confusion[i].mean or 0 for arm in arms))
    rows = [
        (
            *_cell_names(summary, found.cells[i]),
            *(_count_text(found.arms[arm].confusion[i]) for arm in arms),
        )
        for i in wrong[:MOST_CONFUSIONS]
    ]
    if not rows:
        return None
    more = len(wrong) - len(rows)
    return Table(
        name="confusions",
        header=("object", "detected as", *map(plain, arms)),
        rows=tuple(rows),
        left=2,
        caption=(
            "Objects or detections of a run at the thresholds of the classes, mean over the seeds, "
            "and the difference to the reference with its 95% t interval. An object of background "
            "is a detection without any object; one that is detected as missed has no detection."
            + (f" {more:,} less frequent pairs are in confusion.csv." if more else "")
        ),
    )


def decision_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per arm and quantity."""
    yield ["arm", "quantity", "unit", *COMPARED]
    found = summary.detections.decisions
    for arm, of_arm in found.arms.items() if found else ():
        for name in QUANTITIES:
            yield [arm, name, _unit(name), *compared_cells(of_arm.quantities[name])]


def class_decision_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per class, arm and quantity."""
    yield ["class", "category_id", "arm", "quantity", "unit", *COMPARED]
    found = summary.detections.decisions
    for arm, of_arm in found.arms.items() if found else ():
        for data, of_class in zip(summary.detections.classes, of_arm.classes, strict=False):
            head: list[Cell] = [data.label, data.category_id, arm]
            for name in OF_CLASSES:
                yield [*head, name, _unit(name), *compared_cells(of_class[name])]


def confusion_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per cell of the confusion matrix and arm."""
    yield ["object", "detected_as", "arm", *COMPARED]
    found = summary.detections.decisions
    for i, cell in enumerate(found.cells if found else ()):
        for arm, of_arm in found.arms.items() if found else ():
            if of_arm.confusion:
                names = _cell_names(summary, cell)
                yield [*names, arm, *compared_cells(of_arm.confusion[i])]


def reliability_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per arm and bin of the score."""
    yield ["arm", "from", "to", *_BIN]
    found = summary.detections.decisions
    for arm, of_arm in found.arms.items() if found else ():
        for i, b in enumerate(of_arm.reliability):
            limits: list[Cell] = [i / BINS, (i + 1) / BINS]
            yield [arm, *limits, *(getattr(b, name) for name in _BIN)]


def _tables(summary: Summary, name: str, columns: Mapping[str, str], caption: str) -> list[Table]:
    """Return the table of the means, and that of the differences if there are two arms."""
    found = summary.detections.decisions
    if found is None:
        return []
    shown = [q for q in columns if any(a.quantities[q].n for a in found.arms.values())]

    def table(name: str, text: Callable[..., str], arms: list[str], caption: str) -> Table:
        rows = [
            (plain(arm), *(text(found.arms[arm].quantities[q], _digits(q)) for q in shown))
            for arm in arms
        ]
        return Table(name, ("arm", *(columns[q] for q in shown)), tuple(rows), caption)

    tables = [table(name, compared_text, list(summary.arms), caption)]
    others = [arm for arm in summary.arms if arm != summary.reference]
    if others:
        differences = f"Differences in the numbers above. {INTERVAL} They are not adjusted."
        tables.append(table(f"{name}-differences", difference_text, others, differences))
    return tables


def _digits(quantity: str) -> int:
    return 2 if quantity in NO_PERCENT else 1


def _unit(quantity: str) -> str:
    return {"threshold": "score", "false_positives": "per image"}.get(quantity, "percent")


def _f1_text(classes: tuple[dict[str, Compared], ...], i: int) -> str:
    if not classes or classes[i]["f1"].mean is None:
        return NOTHING
    threshold = number_text(classes[i]["threshold"].mean, 2)
    return f"{compared_text(classes[i]['f1'])} at {threshold}"


def _count_text(found: Compared) -> str:
    text = number_text(found.mean)
    return text if found.difference is None else f"{text}, {difference_text(found)}"


def _cell_names(summary: Summary, cell: ConfusionCell) -> tuple[str, str]:
    labels = [data.label for data in summary.detections.classes]
    true = BACKGROUND if cell.true is None else plain(labels[cell.true])
    return true, MISSED if cell.predicted is None else plain(labels[cell.predicted])
