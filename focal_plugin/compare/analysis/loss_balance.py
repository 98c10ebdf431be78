"""Balance of classification loss and box loss of each arm, compared with the reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ...run_folder import MOMENTS
from ..plan.comparison import Comparison
from ..runs.run_folder import RunFolder

LARGEST_FACTOR = 3.0
"""Factor to the reference, in either direction, above which a balance is flagged."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class ArmBalance:
    """
    Ratio of the gradient norms of classification loss and box loss, of one part of one arm.

    Ratios multiply, so all means are of their logarithms.

    Attributes:
        part: "retinanet", "rpn" or "roi_heads".
        moment: one of :data:`~focal_plugin.run_folder.MOMENTS`.
        iteration: number of training steps in the first run.
        by_seed: seed -> ratio; None if a norm is 0 or not finite.
        ratio: geometric mean over the seeds; None without a ratio.
        spread: geometric standard deviation between the seeds, a factor >= 1; None for fewer than
            two ratios.
        factor: the ratio over that of the reference; None if one of them is None.
    """

    arm: str
    part: str
    moment: str
    iteration: int
    by_seed: dict[int, float | None]
    ratio: float | None
    spread: float | None
    factor: float | None

    @property
    def differs(self) -> bool:
        """True if the factor is above :data:`LARGEST_FACTOR` in either direction."""
        if self.factor is None:
            return False
        return max(self.factor, 1 / self.factor) > LARGEST_FACTOR * (1 + _ROUNDING)


@dataclass(frozen=True)
class Balances:
    """
    Balances of all arms.

    Attributes:
        arms: by part, then by arm in the order of the comparison, then by moment.
    """

    arms: tuple[ArmBalance, ...]

    @property
    def parts(self) -> list[str]:
        """Names of the parts, sorted."""
        return sorted({balance.part for balance in self.arms})

    def of(self, arm: str, part: str, moment: str) -> ArmBalance | None:
        """Return one balance; None if no run recorded it."""
        key = (arm, part, moment)
        return next((b for b in self.arms if (b.arm, b.part, b.moment) == key), None)

    @property
    def flagged(self) -> list[ArmBalance]:
        """Balances that differ from that of the reference."""
        return [balance for balance in self.arms if balance.differs]


def balances(comparison: Comparison, folders: Mapping[str, list[RunFolder]]) -> Balances:
    """
    Return the balances of all runs that recorded one, including failed ones.

    Args:
        folders: arm -> its runs, one per seed.
    """
    parts = {
        part
        for of_arm in folders.values()
        for folder in of_arm
        for record in folder.balances.values()
        for part in record.parts
    }
    found = []
    for part in sorted(parts):
        reference = {
            moment: geometric(_ratios(folders[comparison.reference], part, moment).values())[0]
            for moment in MOMENTS
        }
        for arm in comparison.arms:
            for moment in MOMENTS:
                by_seed = _ratios(folders[arm], part, moment)
                if by_seed:
                    ratio, spread = geometric(by_seed.values())
                    against = reference[moment]
                    factor = ratio / against if ratio and against else None
                    iteration = _iteration(folders[arm], moment)
                    found.append(
                        ArmBalance(arm, part, moment, iteration, by_seed, ratio, spread, factor)
                    )
    return Balances(tuple(found))


def geometric(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """
    Return the geometric mean and the geometric standard deviation (ddof 1) of positive numbers.

    Args:
        values: numbers > 0; None is left out.

    Returns:
        None instead of the mean of no number, or of the deviation of fewer than two.
    """
    logs = np.log([value for value in values if value is not None])
    if not len(logs):
        return None, None
    spread = math.exp(logs.std(ddof=1)) if len(logs) > 1 else None
    return math.exp(logs.mean()), spread


def _ratios(folders: Iterable[RunFolder], part: str, moment: str) -> dict[int, float | None]:
    records = {f.run.seed: f.balances[moment].parts for f in folders if moment in f.balances}
    return {seed: parts[part].ratio for seed, parts in records.items() if part in parts}


def _iteration(folders: Iterable[RunFolder], moment: str) -> int:
    return next(f.balances[moment].iteration for f in folders if moment in f.balances)
