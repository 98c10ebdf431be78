"""
Rows of the predictions of several feature levels, without a copy of all predictions.

Shape shorthand:
    N: number of images
    R: anchors per image over all levels
    V: anchors to gather
    D: numbers per anchor
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rows_of_levels(levels: Sequence[Tensor], image: Tensor, anchor: Tensor) -> Tensor:
    """
    Gather the predictions of some anchors.

    Args:
        levels: (N, ..., D) each, in any layout.
        image, anchor: int64 (V,), in 0..N-1 and 0..R-1.

    Returns:
        (V, D).
    """
    rows = []
    places = []
    first = 0
    for level in levels:
        shape = level.shape[1:-1]
        place = ((anchor >= first) & (anchor < first + shape.numel())).nonzero().squeeze(1)
        within = torch.unravel_index(anchor[place] - first, shape)
        rows.append(level[(image[place], *within)])
        places.append(place)
        first += shape.numel()
    return torch.cat(rows)[torch.cat(places).argsort()]


def split_levels(values: Tensor, levels: Sequence[Tensor]) -> list[Tensor]:
    """
    Split a value of each anchor by level.

    Args:
        values: (N, R).
        levels: (N, ..., D) each.

    Returns:
        (N, ...) each.
    """
    sizes = [level[0, ..., 0].numel() for level in levels]
    parts = values.split(sizes, dim=1)
    return [x.reshape(level.shape[:-1]) for x, level in zip(parts, levels, strict=True)]
