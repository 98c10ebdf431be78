"""Lists of detections of an arm: their length, their score cut-off, and what both may cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..plan.score_threshold import COMPARED_SCORE_THRESHOLD, STOCK_SCORE_THRESHOLD
from .detections.list_facts import ListFacts
from .scores import Spread

NOTABLE_COST = 0.2
"""AP, percent, from which a report warns of the cost of a shorter list."""
LOW_SCORE = 0.01
"""Lowest score above which lists of an unknown cut-off look cut."""
NOT_DEFINED = "not defined"


@dataclass(frozen=True)
class ArmLists:
    """
    Lists of detections of an arm. Spreads are over the seeds.

    Attributes:
        cut_offs: scores from which its runs kept detections; () if they are not known.
        lowest: lowest score of all runs; None without detections.
        limit: largest number of detections that a run keeps on an image; None without one.
        per_image: detections per image.
        full: images that reach the limit, percent.
        cut_cost: AP, percent, that a cut-off of
            :data:`~..plan.score_threshold.STOCK_SCORE_THRESHOLD` costs.
        limit_cost: AP, percent, that half the limit costs.
    """

    cut_offs: tuple[float, ...]
    lowest: float | None
    limit: int | None
    per_image: Spread
    full: Spread
    cut_cost: Spread
    limit_cost: Spread

    @property
    def cut_above(self) -> float | None:
        """Cut-off, if it is above that of a comparison, so that it costs an unknown AP."""
        highest = max(self.cut_offs, default=0.0)
        return highest if highest > COMPARED_SCORE_THRESHOLD else None

    @property
    def looks_cut(self) -> bool:
        """True if the cut-off is not known, and all scores are high."""
        return not self.cut_offs and self.lowest is not None and self.lowest > LOW_SCORE

    @property
    def cost_at_stock(self) -> float | None:
        """Notable AP that Detectron2's cut-off would cost; None if it would not, or did."""
        cost = self.cut_cost.mean
        uncut = max(self.cut_offs, default=0.0) < STOCK_SCORE_THRESHOLD
        return cost if uncut and cost is not None and cost > NOTABLE_COST else None

    @property
    def cost_at_half(self) -> float | None:
        """Notable AP that half the limit would cost; None if it would not."""
        cost = self.limit_cost.mean
        return cost if cost is not None and cost > NOTABLE_COST else None


def arm_lists(runs: Mapping[int, ListFacts], cut_offs: tuple[float, ...]) -> ArmLists:
    """
    Return the lists of an arm.

    Args:
        runs: seed -> lists of its run.
        cut_offs: scores from which the runs kept detections; () if they are not known.
    """

    def over_seeds(value: Callable[[ListFacts], float]) -> Spread:
        numbers = {seed: value(facts) for seed, facts in runs.items()}
        return Spread.of({s: n if math.isfinite(n) else NOT_DEFINED for s, n in numbers.items()})

    return ArmLists(
        cut_offs=cut_offs,
        lowest=min((f.lowest for f in runs.values() if f.lowest is not None), default=None),
        limit=max((f.limit for f in runs.values() if f.limit is not None), default=None),
        per_image=over_seeds(lambda facts: facts.per_image),
        full=over_seeds(lambda facts: 100 * facts.full),
        cut_cost=over_seeds(lambda facts: 100 * facts.cut_cost),
        limit_cost=over_seeds(lambda facts: 100 * facts.limit_cost),
    )
