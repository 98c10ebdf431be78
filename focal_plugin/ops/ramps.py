"""
Sums of a ramp over many numbers, without a matrix of all pairs.

    H(x) = 0 for x < -delta,   1 for x >= delta,   x / (2 * delta) + 1/2 in between

H is piecewise linear. So a sum of H(x_j - c_i) over all x_j requires only the count and the sum of
the x_j between the points c - delta and c + delta of all centers c. The sums are exact but for
rounding in float64.

Shape shorthand:
    P: centers
    B: 2 * P, edges between buckets
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Tally(NamedTuple):
    """Content of the B + 1 buckets, float64 (B + 1,) each."""

    counts: Tensor
    """Numbers in each bucket, or their weights."""
    sums: Tensor
    """Sum of (number - left edge) in each bucket, weighted. It is not relative to 0, because the
    differences of large sums lose digits."""


class Line(NamedTuple):
    """Piecewise linear function of x, 0 left of all edges; float64."""

    heights: Tensor  # (B + 1,), value at the left edge of each bucket
    slopes: Tensor  # (B + 1,)


class Ramps:
    """
    One ramp at each center.

    Attributes:
        edges: (B,), ascending. Bucket k holds the numbers that are >= k of the edges.
        left: (B + 1,), left edge of each bucket; bucket 0 has none, and refers to the first edge.
    """

    def __init__(self, centers: Tensor, delta: float) -> None:
        """
        Initialize the ramps.

        Args:
            centers: (P,), float64; P >= 1.
            delta: half width of each ramp, >= 0; 0: H is the step [x >= 0].
        """
        self._centers = centers
        self._low, self._high = centers - delta, centers + delta
        self._slope = 1 / (2 * delta) if delta else 0.0
        self.edges, self._order = torch.cat([self._low, self._high]).sort()
        self.left = torch.cat([self.edges[:1], self.edges])

    def tally(self, x: Tensor, weights: Tensor | None = None) -> Tally:
        """Put numbers into the buckets: float64 (V,), with weights (V,), or 1 each."""
        bucket = torch.bucketize(x, self.edges, right=True)
        distance = x - self.left[bucket]
        if weights is None:
            weights = torch.ones_like(x)
        else:
            distance = distance * weights
        empty = torch.zeros_like(self.left)
        return Tally(empty.index_add(0, bucket, weights), empty.index_add(0, bucket, distance))

    def sums(self, tally: Tally) -> Tensor:
        """
        Compute the sum of H(x - c) over all tallied x, for each center c.

        Returns:
            float64 (P,); NaN if an x is NaN.
        """
        top = self.edges[-1]
        # Relative to the highest edge, and summed from there: the few numbers above a high center
        # keep all their digits
        offsets = tally.sums + tally.counts * (self.left - top)
        offsets[-1] = 0  # the numbers above all ramps, which may be huge
        count_from, offset_from = _sums_from(tally.counts), _sums_from(offsets)
        low, high = (torch.bucketize(x, self.edges, right=True) for x in (self._low, self._high))
        above = count_from[high]
        within = count_from[low] - above
        offset = offset_from[low] - offset_from[high] + (top - self._centers) * within
        on_ramp = torch.minimum((offset * self._slope + within / 2).clamp(min=0), within)
        return above + on_ramp + 0 * tally.sums.sum()

    def line(self, weights: Tensor) -> Line:
        """Return g(x), the sum of weight * H(x - c) over the centers; weights are (P,)."""
        zeros = torch.zeros_like(weights)
        begins = torch.cat([torch.ones_like(weights), -torch.ones_like(weights)])[self._order]
        rate = torch.cat([weights, -weights])[self._order] * self._slope
        # No ramp is open beyond the last one, where the rounded rates do not cancel
        slopes = rate.cumsum(0).masked_fill(begins.cumsum(0) <= 0, 0.0)
        rises = slopes[:-1] * self.edges.diff()
        # A step rises at once, and so does a ramp that is narrower than its numbers' last digit
        jumps = weights * (1 - (self._high - self._low) * self._slope)
        heights = torch.cat([zeros, jumps])[self._order].cumsum(0)
        heights[1:] += rises.cumsum(0)
        nothing = weights.new_zeros(1)
        return Line(torch.cat([nothing, heights]), torch.cat([nothing, slopes]))


def _sums_from(values: Tensor) -> Tensor:
    """Return the sums from each value to the last one."""
    return values.flip(0).cumsum(0).flip(0)
