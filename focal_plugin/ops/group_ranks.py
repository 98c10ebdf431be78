"""Ranks within groups, without a loop over the groups."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks_in_groups(groups: Tensor, order: Tensor) -> Tensor:
    """
    Return the rank of each row among the rows of its group.

    Args:
        groups: integer (P,), >= 0, the group of each row.
        order: int64 (P,), all rows, the best first.

    Returns:
        int64 (P,), from 0 for the best row of a group.
    """
    by_group = order[groups[order].argsort(stable=True)]
    sizes = torch.bincount(groups)
    first = sizes.cumsum(0) - sizes
    ranks = torch.empty_like(order)
    ranks[by_group] = torch.arange(len(order), device=order.device) - first[groups[by_group]]
    return ranks
