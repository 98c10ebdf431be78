"""
Inputs that every implementation of :mod:`~focal_plugin.ops.dense_loss` shares.

A block holds the logits in their memory layout. The terms hold the loss formula of each logit.

Shape shorthand:
    K: number of classes
    G, T: a tensor of logits in memory is G groups of K planes of T anchors: (G, K, T)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .formula import Formula

FLUSHED_BELOW = 1e-20
"""
Slopes smaller than this become 0, before they are weighted and scaled. The exact gradient of a
confident negative is a subnormal number, which slows down convolutions on a CPU several times.
"""


@dataclass(frozen=True)
class Terms:
    """
    Loss formulas of the logits.

    ``positive`` applies to x if its class is the anchor's label. Otherwise ``negative`` applies to
    -x. Each is multiplied by its weight: one number, or one number per class, (K,).
    """

    positive: Formula
    negative: Formula
    positive_weight: float | Tensor = 1.0
    negative_weight: float | Tensor = 1.0

    @property
    def formulas(self) -> tuple[Formula, Formula]:
        return self.positive, self.negative

    def weights(self, num_classes: int, device: torch.device) -> Tensor:
        """Return the weights, float32 (2, K): row 0 for positives, row 1 for negatives."""
        weights = torch.empty(2, num_classes, device=device)
        for row, weight in enumerate((self.positive_weight, self.negative_weight)):
            weights[row] = weight if isinstance(weight, Tensor) else float(weight)
        return weights


class Block(NamedTuple):
    """Logits in their memory layout, with the labels and qualities of their anchors."""

    logits: Tensor  # (G, K, T), contiguous, any floating dtype
    labels: Tensor  # (G, T), int32 in {-1 (ignored), 0..K-1, K (background)}, contiguous
    quality: Tensor | None  # (G, T), float32, contiguous


Evaluate = Callable[[Block, Terms, Tensor | None], tuple[Tensor, Tensor | None]]
"""
Function `evaluate(block, terms, factor)` of an implementation. It returns the loss of each anchor,
float32 (G, T), and the gradient times ``factor``, with the layout of the logits. The factor is
float32, () or (G, T); None requests no gradient.
"""


class Implementation(Protocol):
    """Interface of an implementation's module."""

    def why_not(self, block: Block, terms: Terms) -> str | None: ...

    def evaluate(
        self, block: Block, terms: Terms, factor: Tensor | None
    ) -> tuple[Tensor, Tensor | None]: ...


def why_no_kernel(block: Block, terms: Terms, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """
    Return the reason why a kernel for ``dtypes`` cannot compute the terms of a block, or None.
    """
    if block.logits.dtype not in dtypes:
        names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
        supported = ", ".join(names[:-1]) + f" and {names[-1]}"
        return f"it supports {supported}, got {block.logits.dtype}"
    unknown = [type(formula).__name__ for formula in terms.formulas if formula.kernel is None]
    return f"{unknown[0]} is not one of its formulas" if unknown else None
