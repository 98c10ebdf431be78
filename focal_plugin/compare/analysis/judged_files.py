"""Summary of result files of any framework: arms are judged by their detections alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...files import sha256_of
from ..plan.comparison import Comparison
from ..plan.setting import EQUAL
from ..runs.result import AVERAGES
from ..runs.status import STATES
from .class_differences import class_differences
from .detection_analysis import analyze_detections, value_of
from .detections.average_precision import METRICS
from .detections.coco_json import GroundTruth, read_ground_truth
from .detections.run_numbers import RunNumbers
from .evaluate_files import FileOfRun, evaluate_files
from .evaluated_runs import REPLICATES, EvaluatedRuns, data_problems
from .loss_balance import Balances
from .loss_views import LossViews
from .pilot import spread_of_differences
from .provenance import DataSet, Provenance
from .scores import ArmScores, Spread, Standing, Value, verdicts_of_arms
from .size_differences import size_differences
from .summary import (
    Fairness,
    ResultFile,
    Summary,
    most_different,
    recommendations,
    unusual_arms,
)
from .training import cost
from .uncertainty import uncertainties


@dataclass(frozen=True)
class JudgedFiles:
    """
    Result files of all arms, in COCO's format.

    Attributes:
        name: title of the report.
        ground_truth: COCO json of the annotations.
        arms: arm -> its files. File i of each arm is its seed i, counted from 1, and the arms are
            compared file by file.
        reference: arm that the others are compared with.
        images: folder of the images; None for a report without images.
        margin: largest difference in AP that does not matter, percent; None without one.
    """

    name: str
    ground_truth: Path
    arms: Mapping[str, tuple[Path, ...]]
    reference: str
    images: Path | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        """Raise an error if the arms cannot be compared, or a file does not exist."""
        if len(self.arms) < 2:
            raise ValueError(f"there must be at least two arms to compare, got {len(self.arms)}")
        if self.reference not in self.arms:
            known = ", ".join(self.arms)
            raise ValueError(f"the reference {self.reference!r} is no arm; the arms are {known}")
        empty = [arm for arm, files in self.arms.items() if not files]
        if empty:
            raise ValueError(f"arm {empty[0]!r} has no file")
        files = (self.ground_truth, *(file for of_arm in self.arms.values() for file in of_arm))
        missing = [str(file) for file in files if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"no such file: {', '.join(missing)}")
        if self.margin is not None and not self.margin > 0:
            raise ValueError(f"the margin must be a difference in AP > 0, got {self.margin}")
        if self.images is not None and not self.images.is_dir():
            raise FileNotFoundError(f"no such folder of images: {self.images}")


def summarize_files(
    judged: JudgedFiles,
    *,
    replicates: int = REPLICATES,
    told: Callable[[str], None] = lambda message: None,
) -> Summary:
    """
    Return the summary of result files.

    AP is computed here and equals that of pycocotools. Only the numbers of a file stay in memory.

    Args:
        replicates: resamples of the images for each arm; 0 skips them.
        told: called with a line about each file.

    Raises:
        ValueError: a file is malformed; the message names file and entry. Or two files of an arm
            are equal, or the ground truth has no objects.
    """
    truth = read_ground_truth(judged.ground_truth)
    if truth.crowd.all():
        raise ValueError(f"{judged.ground_truth}: no object is annotated, so there is no AP")
    digests = _digests(judged)
    numbers: dict[str, dict[int, RunNumbers | None]] = {arm: {} for arm in judged.arms}
    files = []
    places = [(a, i, path) for a, paths in judged.arms.items() for i, path in enumerate(paths, 1)]
    evaluated_files = evaluate_files(
        truth, [FileOfRun(path) for *_, path in places], replicates=replicates, metrics=METRICS
    )
    for (arm, seed, path), evaluated_file in zip(places, evaluated_files, strict=True):
        told(f"{arm}, file {seed} of {len(judged.arms[arm])}: {path}")
        try:
            found = evaluated_file()
        except RecursionError as error:
            raise ValueError(f"{path}: not valid JSON: it is nested too deeply") from error
        numbers[arm][seed] = found
        ap = value_of(found, lambda run: 100 * run.averages["AP"])
        files.append(ResultFile(arm, seed, str(path), digests[path], found.lists.detections, ap))
    evaluated = EvaluatedRuns(
        numbers=numbers,
        files={
            arm: {seed: str(path) for seed, path in enumerate(paths, start=1)}
            for arm, paths in judged.arms.items()
        },
        cut_offs=dict.fromkeys(judged.arms, ()),
        ground_truth=truth,
        json_file=str(judged.ground_truth),
        image_root=str(judged.images or ""),
        train_objects=None,
        train_images=None,
        problems=data_problems(truth, judged.ground_truth),
    )
    scores = tuple(_scores(arm, of_arm) for arm, of_arm in numbers.items())
    comparison = Comparison(
        name=judged.name,
        arms=tuple(judged.arms),
        reference=judged.reference,
        seeds=tuple(range(1, 1 + max(map(len, judged.arms.values())))),
        runs=(),
        margin=judged.margin,
    )
    equal = Standing("equal", scores, verdicts_of_arms(comparison, scores))
    shown = most_different(equal, judged.reference)
    spread = spread_of_differences(equal)
    detections = analyze_detections(evaluated, judged.reference, shown)
    return Summary(
        name=judged.name,
        reference=judged.reference,
        planned_reference=judged.reference,
        arms=comparison.arms,
        seeds=comparison.seeds,
        looks=comparison.looks,
        margin=comparison.margin,
        shown=shown,
        iterations=(),
        states={**dict.fromkeys(STATES, 0), "done": len(files)},
        runs=(),
        problems=(),
        recipe=(),
        red=(),
        equal=equal,
        best=None,
        tuning=None,
        detections=detections,
        class_differences=class_differences(detections, equal, judged.reference),
        sizes=size_differences(detections, equal, judged.reference),
        test_sets=(),
        curves={arm: {} for arm in judged.arms},
        ends=dict.fromkeys(judged.arms),
        costs={arm: cost([]) for arm in judged.arms},
        slow=dict.fromkeys(judged.arms, ()),
        load=None,
        losses=LossViews((), ()),
        balances=Balances(()),
        fairness=Fairness((), (), {}),
        provenance=Provenance((), (_data_set(truth, judged.ground_truth),), 0),
        spread_of_differences=spread,
        uncertainties=uncertainties(equal, detections.images_of_arms, judged.reference),
        unusual=unusual_arms(equal),
        recommendations=recommendations(spread, len(judged.arms) - 1),
        files=tuple(files),
    )


def _digests(judged: JudgedFiles) -> dict[Path, str]:
    """Return file -> SHA-256; raise an error if an arm has the same detections twice."""
    digests = {path: sha256_of(path) for paths in judged.arms.values() for path in set(paths)}
    for arm, paths in judged.arms.items():
        first: dict[str, Path] = {}
        for path in paths:
            if digests[path] in first and not _is_empty(path):
                raise ValueError(
                    f"arm {arm!r}: {first[digests[path]]} and {path} are equal, but no two seeds "
                    "leave the same detections"
                )
            first[digests[path]] = path
    return digests


def _is_empty(path: Path) -> bool:
    """Return True for an empty list, which two runs that found nothing share."""
    return path.stat().st_size < 100 and path.read_bytes().split() in ([b"[]"], [b"[", b"]"])


def _scores(arm: str, runs: Mapping[int, RunNumbers | None]) -> ArmScores:
    def of(metric: str) -> dict[int, Value]:
        return {
            seed: value_of(run, lambda numbers: 100 * numbers.averages[metric])
            for seed, run in runs.items()
        }

    states = {**dict.fromkeys(STATES, 0), "done": len(runs)}
    return ArmScores(arm, EQUAL, states, {metric: Spread.of(of(metric)) for metric in AVERAGES})


def _data_set(truth: GroundTruth, file: Path) -> DataSet:
    return DataSet(
        use="test",
        name=file.name,
        sha256=sha256_of(file),
        images=len(truth.image_ids),
        annotations=len(truth.crowd),
        crowds=int(truth.crowd.sum()),
        classes=len(truth.category_ids),
    )
