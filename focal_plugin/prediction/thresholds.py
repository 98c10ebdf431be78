"""Score thresholds of a run: which of its detections are shown."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

from pycocotools.coco import COCO
from tabulate import tabulate

from ..engine.evaluation import number_annotations
from ..engine.score_thresholds import score_thresholds
from ..files import sha256_of
from ..json_file import read_object
from ..run_folder import DETECTIONS_NAME, THRESHOLDS_NAME, detections_folder
from ..score_thresholds import ClassThreshold, ScoreThresholds
from .trained_run import TrainedRun

REMEDY = "give the threshold, such as --score 0.5"


@dataclass(frozen=True)
class Thresholds:
    """
    Score threshold of each class.

    Attributes:
        scores: one for each class; a detection with at least this score is shown.
        table: text with the origin of the thresholds; "" for a given one.
    """

    scores: tuple[float, ...]
    table: str = ""


def best_thresholds(run: TrainedRun) -> ScoreThresholds:
    """
    Return the F1-best thresholds of the last evaluation of a run, on its first test set.

    The evaluation wrote them. For a run of an older version, they are computed from its detections
    and the ground truth.

    Raises:
        ValueError: the run was not evaluated, a file is damaged, or the ground truth has changed.
        FileNotFoundError: there is no ground truth any more.
    """
    if run.test_set is None:
        raise ValueError(f"{run.folder} has no test set, so no score threshold is known: {REMEDY}")
    folder = run.folder / detections_folder(run.test_set, run.cfg.DATASETS.TEST)
    stored = read_object(ScoreThresholds, folder / THRESHOLDS_NAME)
    return stored or _computed(run, folder / DETECTIONS_NAME)


def automatic(best: ScoreThresholds, class_names: tuple[str, ...]) -> Thresholds:
    """
    Choose the best threshold of each class; a class that was never found gets that of all classes.

    Args:
        class_names: names that the table shows.

    Raises:
        ValueError: no detection of any class was correct, or the number of classes differs.
    """
    if best.together.score is None:
        raise ValueError(
            f"no detection on {best.test_set} was correct, so no score threshold is best: {REMEDY}"
        )
    if len(best.classes) != len(class_names):
        raise ValueError(
            f"{best.test_set} has {len(best.classes)} classes, but the model {len(class_names)}: "
            f"{REMEDY}"
        )
    fallback = best.together.score
    scores = tuple(fallback if one.score is None else one.score for one in best.classes)
    named = zip((*class_names, "all classes"), (*best.classes, best.together), strict=True)
    rows = [_row(name, one, fallback) for name, one in named]
    header = ("class", "objects", "threshold", "precision", "recall", "F1")
    table = tabulate(rows, header, "simple", disable_numparse=True, colalign=_ALIGN)
    return Thresholds(scores, f"{_caption(best)}\n{table}")


_ALIGN = ("left", *("right",) * 5)


def _caption(best: ScoreThresholds) -> str:
    return f"Score thresholds with the largest F1 on {best.test_set}, at IoU {best.iou:g}:"


def _row(name: str, one: ClassThreshold, fallback: float) -> tuple[str, ...]:
    if one.score is None:
        return name, str(one.objects), f"{fallback:.2f}*", "-", "-", "-"
    numbers = (one.score, one.precision, one.recall, one.f1)
    return name, str(one.objects), *(f"{number:.2f}" for number in numbers)


def _computed(run: TrainedRun, detections: Path) -> ScoreThresholds:
    if not detections.is_file():
        raise ValueError(
            f"{run.folder} was not evaluated on {run.test_set}, so no score threshold is known: "
            f"evaluate it with train_net.py --eval-only, or {REMEDY}"
        )
    try:
        entries = json.loads(detections.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{detections} is damaged ({error}): {REMEDY}") from error
    ground_truth = _ground_truth(run)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco = COCO(str(ground_truth))
    number_annotations(coco)
    try:
        return score_thresholds(coco, entries, test_set=str(run.test_set))
    except (KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{detections} holds no detections of {ground_truth}: {REMEDY}") from error


def _ground_truth(run: TrainedRun) -> Path:
    recorded = run.environment.test[:1] if run.environment else ()
    file = next((Path(data.json_file) for data in recorded if data.json_file), None)
    if file is None or not file.is_file():
        where = f": there is no file {file}" if file else ""
        raise FileNotFoundError(
            f"{run.folder} has detections, but the annotations of {run.test_set} are gone{where}; "
            f"{REMEDY}"
        )
    if sha256_of(file) != recorded[0].json_sha256:
        raise ValueError(f"{file} has changed since {run.folder} was trained: {REMEDY}")
    return file
