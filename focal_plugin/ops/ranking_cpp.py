"""C++ implementation of :mod:`~focal_plugin.ops.ranking`, see `csrc/ranking.cpp`."""

from __future__ import annotations

import torch
from torch import Tensor

from .implementations import why_no_cpp
from .levels import Level
from .ramps import Line, Ramps, Tally


def why_not(device: torch.device) -> str | None:
    """Return the reason why it cannot be used on this device, or None."""
    return why_no_cpp(device)


def tally(level: Level, ramps: Ramps) -> Tally:
    """Put the negatives of a level into the buckets of the ramps."""
    logits, labels, _ = level.block
    return Tally(*torch.ops.focal_plugin.ranking_tally(logits, labels, ramps.edges, ramps.left))


def write(level: Level, ramps: Ramps, line: Line, gradient: Tensor) -> None:
    """Write the value of the line at each negative into the gradient, and 0 everywhere else."""
    logits, labels, _ = level.block
    torch.ops.focal_plugin.ranking_write(
        logits, labels, ramps.edges, ramps.left, line.heights, line.slopes, gradient
    )
