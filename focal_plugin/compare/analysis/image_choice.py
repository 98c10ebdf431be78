"""Choice of the images on which the arms differ most, and of the runs that are shown on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..runs.environment import RecordedData
from ..runs.run_folder import RunFolder
from .detections.average_precision import Evaluation
from .detections.disagreement import best_threshold, most_different_images

IMAGES = 8
IMAGE_ARMS = 4  # more pictures beside the ground truth would be too small


@dataclass(frozen=True)
class ImageChoice:
    """
    Images on which the arms differ most.

    Attributes:
        seed: seed of the runs that are shown.
        files: arm -> file of the detections of its run, in the folder of the comparison.
        thresholds: arm -> score threshold of the drawn detections, the best one for F1.
        image_ids: images, most different first.
    """

    seed: int
    files: dict[str, str]
    thresholds: dict[str, float]
    image_ids: tuple[int | str, ...]
    json_file: str
    image_root: str


class ShownRuns:
    """
    Runs of the first seed that most arms have, of at most :data:`IMAGE_ARMS` arms.

    Only the runs of two seeds are in memory at once.

    Args:
        arms: arms for the images, the most interesting first.
    """

    def __init__(self, arms: Iterable[str]) -> None:
        self._places = {arm: place for place, arm in enumerate(arms)}
        self._best: dict[str, tuple[RunFolder, Evaluation]] = {}
        self._current: dict[str, tuple[RunFolder, Evaluation]] = {}
        self._seed: int | None = None

    def offer(self, folder: RunFolder, evaluation: Evaluation) -> None:
        """Take a run if it can be shown; the runs of a seed must follow each other."""
        if folder.run.seed != self._seed:
            self._seed, self._current = folder.run.seed, {}
        if not evaluation.has_detections:
            return
        runs = {**self._current, folder.run.arm: (folder, evaluation)}
        first = sorted(runs, key=self._places.__getitem__)[:IMAGE_ARMS]
        self._current = {arm: runs[arm] for arm in first}
        is_same = any(known.run.seed == self._seed for known, _ in self._best.values())
        if is_same or len(self._current) > len(self._best):
            self._best = self._current

    def choose(self, data: RecordedData) -> ImageChoice | None:
        """Return the images; None for fewer than two arms, or without the images."""
        if len(self._best) < 2 or not Path(data.image_root or "").is_dir():
            return None
        evaluations = {arm: evaluation for arm, (_, evaluation) in self._best.items()}
        return ImageChoice(
            seed=next(iter(self._best.values()))[0].run.seed,
            files={
                arm: folder.detections.relative_to(folder.path.parent).as_posix()
                for arm, (folder, _) in self._best.items()
                if folder.detections is not None
            },
            thresholds={arm: float(best_threshold(e)) for arm, e in evaluations.items()},
            image_ids=tuple(most_different_images(evaluations, IMAGES)),
            json_file=data.json_file or "",
            image_root=data.image_root or "",
        )
