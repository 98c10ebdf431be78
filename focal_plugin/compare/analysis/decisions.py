"""Operating points and calibration of all arms, each quantity paired over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .detections.calibration import BINS
from .detections.run_decisions import LRP_NAMES, RunDecisions
from .paired import Compared, by_arm

QUANTITIES = (
    "threshold",
    "precision",
    "recall",
    "f1",
    "f1_one_threshold",
    "f1_fixed",
    "false_positives",
    "d_ece",
    "laece0",
    "bias",
    *LRP_NAMES.values(),
)
"""
Quantities of an arm. `threshold` and `f1_one_threshold` are those of one threshold for all classes;
`precision`, `recall` and `f1` are those of one threshold per class. `f1_fixed` is F1 at a score of
.5. `false_positives` are those per image without objects. All but `threshold` and `false_positives`
are percent.
"""
OF_CLASSES = ("threshold", "precision", "recall", "f1", "d_ece", "laece0", *LRP_NAMES.values())
"""Quantities of a class; `threshold` is that of the class."""
NO_PERCENT = ("threshold", "false_positives")
MOST_CELLS = 1000
"""Most cells of the confusion matrix; those with the largest counts stay."""


@dataclass(frozen=True)
class ConfusionCell:
    """
    Cell of the confusion matrix.

    Attributes:
        true: index of the class of the objects; None for background.
        predicted: index of the class of the detections; None for missed objects.
    """

    true: int | None
    predicted: int | None


@dataclass(frozen=True)
class ReliabilityBin:
    """
    Detections of all runs of an arm in one bin of their score.

    Attributes:
        detections: number of detections.
        share: their share of the detections of all bins, 0 to 1.
        score: mean score; None without detections.
        precision: share of correct detections; None without detections.
        low, high: lowest and highest precision of a run; None without detections.
    """

    detections: int
    share: float
    score: float | None
    precision: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ArmDecisions:
    """
    Decisions of one arm.

    Attributes:
        quantities: one of :data:`QUANTITIES` -> its value.
        classes: for each class, one of :data:`OF_CLASSES` -> its value.
        confusion: counts on the test data, in the order of :attr:`Decisions.cells`.
        reliability: bins of the score, from 0 to 1.
    """

    quantities: dict[str, Compared]
    classes: tuple[dict[str, Compared], ...]
    confusion: tuple[Compared, ...]
    reliability: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Decisions:
    """
    Operating points and calibration of all arms.

    Attributes:
        empty_images: number of test images without objects.
        cells: cells of the confusion matrices, at most :data:`MOST_CELLS`.
        left_out: number of cells that are left out.
        arms: arm -> its decisions.
    """

    empty_images: int
    cells: tuple[ConfusionCell, ...]
    left_out: int
    arms: dict[str, ArmDecisions]


def decisions(
    runs: Mapping[str, Mapping[int, RunDecisions]], order: Sequence[int], reference: str
) -> Decisions | None:
    """
    Compare the decisions of every arm with those of the reference.

    Args:
        runs: arm -> seed -> decisions of the run.
        order: index in the runs of each class of the result.
        reference: one of the arms.

    Returns:
        None without runs.
    """
    every = [run for of_arm in runs.values() for run in of_arm.values()]
    if not every:
        return None
    cells, left_out = _cells(every, len(order))
    together = _compared(runs, reference, _of_all_classes)
    classes = _compared(runs, reference, partial(_of_each_class, order=order))
    confusions = _compared(runs, reference, partial(_counts, cells=cells, classes=len(order)))
    places = {k: place for place, k in enumerate(order)}
    step = len(OF_CLASSES)
    return Decisions(
        empty_images=every[0].empty_images,
        cells=tuple(
            ConfusionCell(*(places.get(int(k)) for k in divmod(cell, len(order) + 1)))
            for cell in cells.tolist()
        ),
        left_out=left_out,
        arms={
            arm: ArmDecisions(
                quantities=dict(zip(QUANTITIES, together[arm], strict=True)),
                classes=tuple(
                    dict(zip(OF_CLASSES, classes[arm][i : i + step], strict=True))
                    for i in range(0, len(classes[arm]), step)
                ),
                confusion=tuple(confusions[arm]),
                reliability=_reliability(list(of_arm.values())),
            )
            for arm, of_arm in runs.items()
        },
    )


def _compared(
    runs: Mapping[str, Mapping[int, RunDecisions]],
    reference: str,
    numbers: Callable[[RunDecisions], np.ndarray],
) -> dict[str, list[Compared]]:
    return by_arm(
        {arm: {seed: numbers(run) for seed, run in of_arm.items()} for arm, of_arm in runs.items()},
        reference,
    )


def _of_all_classes(run: RunDecisions) -> np.ndarray:
    """Return the values of :data:`QUANTITIES`."""
    return np.array([_scale(name) * run.quantities[name] for name in QUANTITIES])


def _of_each_class(run: RunDecisions, order: Sequence[int]) -> np.ndarray:
    """Return the values of :data:`OF_CLASSES`, those of one class after those of another."""
    rows = [_scale(name) * run.by_class[name][list(order)] for name in OF_CLASSES]
    return np.array(rows).T.ravel()


def _scale(name: str) -> float:
    return 1.0 if name in NO_PERCENT else 100.0


def _cells(runs: Sequence[RunDecisions], classes: int) -> tuple[np.ndarray, int]:
    """
    Return the cells with the largest counts, in the order of the matrix, and how many are left out.

    A cell is its row of objects times (``classes`` + 1), plus its column of detections.
    """
    numbers = np.concatenate([_numbers(run, classes) for run in runs])
    counts = np.concatenate([run.confusion.count for run in runs])
    cells, place = np.unique(numbers, return_inverse=True)
    total = np.bincount(place, counts, len(cells))
    largest = np.sort(np.argsort(-total, kind="stable")[:MOST_CELLS])
    return cells[largest], len(cells) - len(largest)


def _counts(run: RunDecisions, cells: np.ndarray, classes: int) -> np.ndarray:
    """Return the count of each cell."""
    numbers = _numbers(run, classes)
    found = np.zeros(len(cells))
    place = np.minimum(np.searchsorted(cells, numbers), max(0, len(cells) - 1))
    kept = cells[place] == numbers if len(cells) else np.zeros(0, dtype=bool)
    found[place[kept]] = run.confusion.count[kept]
    return found


def _numbers(run: RunDecisions, classes: int) -> np.ndarray:
    return run.confusion.true * (classes + 1) + run.confusion.predicted


def _reliability(runs: Sequence[RunDecisions]) -> tuple[ReliabilityBin, ...]:
    if not runs:
        return ()
    count, score, right = (
        np.array([getattr(run.reliability, name) for run in runs], dtype=float)
        for name in ("count", "score", "target")
    )
    total = count.sum()
    bins = []
    for i in range(BINS):
        there = count[:, i] > 0
        if not there.any():
            bins.append(ReliabilityBin(0, 0.0, None, None, None, None))
            continue
        of_runs = right[there, i] / count[there, i]
        n = count[:, i].sum()
        bins.append(
            ReliabilityBin(
                detections=int(n),
                share=float(n / total),
                score=float(score[:, i].sum() / n),
                precision=float(right[:, i].sum() / n),
                low=float(of_runs.min()),
                high=float(of_runs.max()),
            )
        )
    return tuple(bins)
