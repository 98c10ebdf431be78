"""Planned looks at the results: levels and p-values that hold over all looks together."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from scipy import special

PATHS = 400_000
_FEWEST_HITS = 400
_CHUNK = 100_000


class Looks:
    """
    Looks at a growing number of seeds, and the p-value of all looks together.

    A test at look i with n_i of N seeds has the p-value p_i of that look. A difference may be found
    at any look, so the smallest of several p-values is not a p-value. The nominal level of look i
    is proportional to n_i / N:

        q = min over the looks so far of p_i N / n_i
        p = P(q of a true null hypothesis at all planned looks <= q)

    p is a p-value whenever one stops. With a single look, p = p_1.

    The distribution of q is simulated once: 400,000 normal paths with a fixed seed. In its far
    tail the bound of Bonferroni takes its place, which is larger: p <= q sum of n_i / N.

    Args:
        counts: number of seeds at each look, increasing, >= 1.

    Raises:
        ValueError: the counts do not increase, or one is below 1.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = tuple(counts)
        if not self.counts or self.counts[0] < 1 or list(counts) != sorted(set(counts)):
            raise ValueError(f"looks must be increasing numbers of seeds >= 1, got {list(counts)}")
        self.shares = np.array(self.counts) / self.counts[-1]

    @property
    def last(self) -> int:
        """Number of seeds at the last look."""
        return self.counts[-1]

    def p_value(self, smallest: np.ndarray, *, sides: int = 2) -> np.ndarray:
        """
        Return the p-value of all looks together.

        Args:
            smallest: q, the smallest p_i N / n_i so far, any shape.
            sides: 2 for two-sided p_i, 1 for one-sided ones.
        """
        smallest = np.asarray(smallest, dtype=np.float64)
        if len(self.counts) == 1:
            return np.minimum(smallest, 1.0)
        null = _null(self.counts)[sides - 1]
        hits = np.searchsorted(null, smallest, side="right")
        bound = np.minimum(smallest * self.shares.sum(), _FEWEST_HITS / PATHS)
        return np.where(hits >= _FEWEST_HITS, hits / PATHS, bound)

    def level(self, alpha: float) -> float:
        """Return the nominal level of the last look for a level of all looks together."""
        if len(self.counts) == 1:
            return alpha
        return float(np.quantile(_null(self.counts)[1], alpha))


@functools.lru_cache(maxsize=16)
def _null(counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted q of one-sided and of two-sided tests of normal differences of mean 0."""
    generator = np.random.default_rng(0)
    one, two = [], []
    for _ in range(PATHS // _CHUNK):
        upper = np.ones(_CHUNK)
        both = np.ones(_CHUNK)
        total, squares, before = np.zeros(_CHUNK), np.zeros(_CHUNK), 0
        for count in counts:
            added = count - before
            increment = generator.standard_normal(_CHUNK) * np.sqrt(added)
            squares += increment**2 / added
            if added > 1:
                squares += generator.chisquare(added - 1, _CHUNK)
            total += increment
            before = count
            deviation = np.maximum(squares - total**2 / count, 1e-300) / (count - 1)
            p = special.stdtr(count - 1, -total / np.sqrt(count * deviation))
            share = count / counts[-1]
            np.minimum(upper, p / share, out=upper)
            np.minimum(both, 2 * np.minimum(p, 1 - p) / share, out=both)
        one.append(upper)
        two.append(both)
    return np.sort(np.concatenate(one)), np.sort(np.concatenate(two))
