"""The loss of :mod:`~focal_plugin.ops.dense_loss` as Triton kernels."""

from __future__ import annotations

from torch import Tensor

from .dense_loss import Block, Terms


def why_not(block: Block, terms: Terms) -> str | None:
    """What hinders it; None if nothing does."""
    return "it is not written yet"


def evaluate(block: Block, terms: Terms, factor: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """See :data:`~focal_plugin.ops.dense_loss.Evaluate`."""
    raise NotImplementedError
