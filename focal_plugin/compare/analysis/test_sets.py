"""AP on every test set of runs that are evaluated on several."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from ..plan.comparison import Comparison
from ..runs.result import AVERAGES
from ..runs.run_folder import RunFolder
from .scores import Spread, average_precision, spread
from .statistics import PairedDifference, paired_difference


@dataclass(frozen=True)
class TestSet:
    """
    Scores of all arms on one of several test sets.

    Attributes:
        metrics: arm -> "AP", "AP50", ... -> percent.
        differences: arm -> difference in AP to the reference; None for the reference, and for an
            arm that shares no seed with it.
    """

    name: str
    metrics: dict[str, dict[str, Spread]]
    differences: dict[str, PairedDifference | None]


def test_sets(
    comparison: Comparison, folders: Mapping[str, list[RunFolder]]
) -> tuple[TestSet, ...]:
    """
    Return the scores on every test set, in the order of the first finished run; () if only one.

    Args:
        folders: arm -> its runs, one per seed.
    """
    done = (r for of_arm in folders.values() for r in of_arm if r.result is not None)
    first = next(done, None)
    if first is None or not first.finished.ap_of_others:
        return ()
    others = [_on(name, name, comparison, folders) for name in first.finished.ap_of_others]
    return _on(first.test_sets[0], None, comparison, folders), *others


def _on(
    name: str,
    key: str | None,
    comparison: Comparison,
    folders: Mapping[str, list[RunFolder]],
) -> TestSet:
    """Return the scores under a key of the results; None is the first test set."""
    metrics = {
        arm: {
            metric: spread(
                folders[arm], functools.partial(average_precision, metric=metric, test_set=key)
            )
            for metric in AVERAGES
        }
        for arm in comparison.arms
    }
    reference = metrics[comparison.reference]["AP"].numbers
    differences = {}
    for arm in comparison.arms:
        own = metrics[arm]["AP"].numbers
        paired = arm != comparison.reference and bool(own.keys() & reference.keys())
        differences[arm] = paired_difference(own, reference) if paired else None
    return TestSet(name, metrics, differences)
