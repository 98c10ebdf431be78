"""AP over training: how an arm rises, and whether it still rises at the end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..runs.run_folder import RunFolder
from .statistics import describe, is_finite_number
from .training import AP_KEY

END = 0.2
"""Part of a training, at its end, in which a rise of AP says that it was too short."""
RISING = 0.5
"""AP, percent; a mean rise of more than that at the end is named."""


@dataclass(frozen=True)
class EndOfTraining:
    """
    Rise of AP from the last evaluation before the end to that after training.

    Attributes:
        rises: seed -> AP after training minus the AP of the earlier evaluation, percent.
        mean: mean of the rises.
        since: iteration of the earlier evaluation, the same for all seeds.
        iterations: iterations of a run.
    """

    rises: dict[int, float]
    mean: float
    since: int
    iterations: int

    @property
    def still_rising(self) -> bool:
        """True if AP rose by more than :data:`RISING` on average, and in every seed."""
        return self.mean > RISING and min(self.rises.values()) > 0


def end_of_training(folders: Iterable[RunFolder]) -> EndOfTraining | None:
    """
    Return how much AP still rose at the end of the finished runs of an arm.

    The earlier evaluation is the first one in the last fifth of the training.

    Returns:
        None without two evaluations in that part, or if the runs were evaluated at different
        iterations.
    """
    rises, since, lengths = {}, set(), set()
    for folder in folders:
        if folder.result is None:
            continue
        iterations = folder.finished.iterations
        points = [
            (line["iteration"], line[AP_KEY])
            for line in folder.metrics
            if is_finite_number(line.get(AP_KEY))
            and line["iteration"] + 1 >= (1 - END) * iterations
        ]
        if len(points) < 2:
            return None
        (first, before), (_, after) = points[0], points[-1]
        rises[folder.run.seed] = after - before
        since.add(first + 1)
        lengths.add(iterations)
    mean = describe(rises.values()).mean
    if mean is None or len(since) != 1 or len(lengths) != 1:
        return None
    return EndOfTraining(rises, mean, since.pop(), lengths.pop())
