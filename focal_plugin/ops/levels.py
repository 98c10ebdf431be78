"""
Logits of several levels in their memory layouts, with their positives.

An anchor of class c has one positive, its logit c, and K - 1 negatives. A background anchor has K
negatives.

Shape shorthand:
    ...: any leading shape, one entry per anchor
    K: number of classes
    G, T: a tensor of logits in memory is G groups of K planes of T anchors: (G, K, T)
    P: positives of all levels
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .chunks import Positives, chunks
from .dense_loss_block import Block
from .layout import Layout


class Level(NamedTuple):
    """Logits of a level, and where its positives are."""

    layout: Layout
    block: Block
    positives: Positives

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Level:
        layout = Layout.of(logits)
        labels = layout.anchors_in_memory(labels.int())
        block = Block(layout.logits_in_memory(logits), labels, None)
        return cls(layout, block, Positives.of(block))

    def with_logits(self, logits: Tensor) -> Level:
        """Return the level with other logits of the same labels, (G, K, T)."""
        return self._replace(block=self.block._replace(logits=logits))

    def negatives(self) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        """Yield chunks in float64, with -infinity for what is no negative, and their slices."""
        logits, labels, _ = self.block
        for chunk, positives in chunks(logits.shape, self.positives.at):
            x = logits[chunk].to(torch.float64, copy=True)
            x.masked_fill_((labels[chunk[0]] < 0).unsqueeze(1), -torch.inf)
            x.view(-1)[positives] = -torch.inf
            yield chunk, x


class Levels:
    """
    Levels of a batch.

    Attributes:
        scores: (P,), float64, the positive logits, without a gradient.
    """

    def __init__(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
        """
        Read several levels, each like :func:`~focal_plugin.ops.dense_loss`.

        Args:
            logits: (..., K) each, any floating dtype; at least one.
            labels: (...) each, integer in {-1 (ignored), 0..K-1, K (background)}; not checked.
        """
        self._levels = [Level.of(x, y) for x, y in zip(logits, labels, strict=True)]
        self.scores = torch.cat(
            [
                level.block.logits.detach().view(-1)[level.positives.at].double()
                for level in self._levels
            ]
        )

    def __iter__(self) -> Iterator[Level]:
        return iter(self._levels)

    @property
    def logits(self) -> list[Tensor]:
        """The logits in memory, (G, K, T) each."""
        return [level.block.logits for level in self]

    def of_positives(self, anchors: Sequence[Tensor]) -> Tensor:
        """Select a number for each positive, (P,), from one for each anchor, shaped as labels."""
        return torch.cat(
            [
                level.layout.anchors_in_memory(x).view(-1)[level.positives.anchor]
                for level, x in zip(self, anchors, strict=True)
            ]
        )

    def split_positives(self, values: Tensor) -> list[Tensor]:
        """Split values of the positives, (P,), by level."""
        return list(torch.split(values, [len(level.positives.at) for level in self]))
