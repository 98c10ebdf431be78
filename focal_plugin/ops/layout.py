"""
Memory layout of logits, in which operations read them without a copy.

Shape shorthand:
    ...: any leading shape, one entry per anchor
    K: number of classes
    G, T: a tensor of logits in memory is G groups of K planes of T anchors: (G, K, T). For the
        output of a convolution in NCHW, G = N * A and T = H * W. If the K logits of an anchor are
        adjacent (channels last), T = 1
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Layout(NamedTuple):
    """Memory layout of a tensor (..., K)."""

    order: tuple[int, ...]  # its dimensions, from the largest stride to the smallest
    shape: tuple[int, int, int]  # (G, K, T)
    anchors: tuple[int, ...]  # (...)

    @classmethod
    def of(cls, logits: Tensor) -> Layout:
        """Return the layout of logits (..., K). Other layouts count as contiguous."""
        last = logits.dim() - 1
        strides = logits.stride()
        order = sorted(range(last + 1), key=lambda i: (-strides[i], i))
        if logits.is_contiguous() or not logits.permute(order).is_contiguous():
            order = list(range(last + 1))
        anchors, num_classes = logits.shape[:-1], logits.shape[-1]
        groups = math.prod(logits.shape[i] for i in order[: order.index(last)])
        shape = (groups, num_classes, math.prod(anchors) // max(groups, 1))
        if num_classes == 1:  # one plane of all anchors
            shape = (1, 1, math.prod(anchors))
        return cls(tuple(order), shape, tuple(anchors))

    def logits_in_memory(self, logits: Tensor) -> Tensor:
        """Reorder (..., K) -> (G, K, T), contiguous; a view, unless the layout requires a copy."""
        return logits.permute(self.order).reshape(self.shape).contiguous()

    def anchors_in_memory(self, anchors: Tensor) -> Tensor:
        """Reorder (...) -> (G, T), contiguous."""
        groups, _, num_anchors = self.shape
        return anchors.permute(self._order_of_anchors()).reshape(groups, num_anchors).contiguous()

    def anchors_as_given(self, anchors: Tensor) -> Tensor:
        """Reorder (G, T) -> (...)."""
        order = self._order_of_anchors()
        in_memory = anchors.reshape([self.anchors[i] for i in order])
        return in_memory.permute([order.index(i) for i in range(len(order))])

    def _order_of_anchors(self) -> list[int]:
        last = len(self.order) - 1
        return [i for i in self.order if i != last]
