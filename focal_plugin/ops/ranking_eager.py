"""PyTorch implementation of :mod:`~focal_plugin.ops.ranking`, in chunks that fit the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from .levels import Level
from .ramps import Line, Ramps, Tally


def why_not(device: torch.device) -> str | None:
    """Return None: nothing prevents it."""
    return None


def tally(level: Level, ramps: Ramps) -> Tally:
    """Put the negatives of a level into the buckets of the ramps."""
    total = Tally(torch.zeros_like(ramps.left), torch.zeros_like(ramps.left))
    for _, x in level.negatives():
        part = ramps.tally(x[_reached(x, ramps)])
        total.counts.add_(part.counts)
        total.sums.add_(part.sums)
    return total


def write(level: Level, ramps: Ramps, line: Line, gradient: Tensor) -> None:
    """Write the value of the line at each negative into the gradient, and 0 everywhere else."""
    for chunk, x in level.negatives():
        reached = _reached(x, ramps)
        x = x[reached]
        bucket = torch.bucketize(x, ramps.edges, right=True)
        value = x.sub_(ramps.left[bucket]).mul_(line.slopes[bucket]).add_(line.heights[bucket])
        gradient[chunk] = 0
        gradient[chunk].masked_scatter_(reached, value.to(gradient.dtype))


def _reached(x: Tensor, ramps: Ramps) -> Tensor:
    """Return the mask of the numbers on or above a ramp; a NaN is one of them."""
    return ~(x < ramps.edges[0])
