"""PyTorch implementation of :mod:`~focal_plugin.ops.norm_counts`, in chunks that fit the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from .chunks import Positives, chunks
from .dense_loss_block import Block
from .formula import Point, bin_index
from .padding import padded, unpadded


def why_not(block: Block) -> str | None:
    """Return None: nothing prevents it."""
    return None


def count(block: Block, bins: int) -> Tensor:
    """Count the logits of a block, see :func:`~focal_plugin.ops.count_norms`."""
    logits, labels = block.logits, block.labels
    positives = Positives.of(block)
    counts = torch.zeros(bins + 1, dtype=torch.int64, device=logits.device)
    # As the loss computes them: negatives in chunks, and then the positives
    for chunk, of_chunk in chunks(logits.shape, positives.at):
        index = _index(-padded(logits[chunk]), logits[chunk].shape, bins)
        index.masked_fill_((labels[chunk[0]] < 0).unsqueeze(1), bins)
        index.view(-1)[of_chunk] = bins
        counts += index.flatten().bincount(minlength=bins + 1)
    x_t = padded(logits.view(-1)[positives.at])
    counts += _index(x_t, positives.at.shape, bins).bincount(minlength=bins + 1)
    return counts[:bins]  # the last bin has what is not counted


def _index(x_t: Tensor, shape: torch.Size, bins: int) -> Tensor:
    return unpadded(bin_index(Point(x_t).q, bins), shape)
