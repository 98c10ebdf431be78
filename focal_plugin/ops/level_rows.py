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
        # Locations, and anchors of a location: a view of NCHW and NHWC outputs
        level = level.flatten(1, -3) if level.dim() > 3 else level.unsqueeze(2)
        end, per_location = first + level.shape[1:3].numel(), level.shape[2]
        place = ((anchor >= first) & (anchor < end)).nonzero().squeeze(1)
        within = anchor[place] - first
        location = within // per_location
        rows.append(level[image[place], location, within - location * per_location])
        places.append(place)
        first = end
    place = torch.cat(places)
    row_of_place = torch.empty_like(place)
    row_of_place[place] = torch.arange(len(place), device=place.device)
    return torch.cat(rows)[row_of_place]


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
