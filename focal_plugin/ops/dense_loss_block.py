"""
Inputs that every implementation of :mod:`~focal_plugin.ops.dense_loss` shares.

A block holds the logits as they lie in memory; the terms say what each logit costs.

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
Slopes smaller than this become 0, before they are weighed and scaled. The exact gradient of a
confident negative is a subnormal number, with which convolutions on a CPU are several times slower.
"""


@dataclass(frozen=True)
class Terms:
    """
    What each logit costs: ``positive`` of x where its class is the anchor's label, ``negative`` of
    -x elsewhere; each times its weight, one number or one for each class, (K,).
    """

    positive: Formula
    negative: Formula
    positive_weight: float | Tensor = 1.0
    negative_weight: float | Tensor = 1.0

    @property
    def formulas(self) -> tuple[Formula, Formula]:
        return self.positive, self.negative

    def weights(self, num_classes: int, device: torch.device) -> Tensor:
        """float32 (2, K): of the positives, and of the negatives."""
        weights = torch.empty(2, num_classes, device=device)
        weights[0] = self.positive_weight
        weights[1] = self.negative_weight
        return weights


class Block(NamedTuple):
    """A tensor of logits as it lies in memory, and what is known of its anchors."""

    logits: Tensor  # (G, K, T), contiguous, any floating dtype
    labels: Tensor  # (G, T), int32 in {-1 (ignored), 0..K-1, K (background)}, contiguous
    quality: Tensor | None  # (G, T), float32, contiguous


Evaluate = Callable[[Block, Terms, Tensor | None], tuple[Tensor, Tensor | None]]
"""
An implementation: `evaluate(block, terms, factor)` -> the loss of each anchor, float32 (G, T), and
the gradient times ``factor``, like the logits. The factor is float32, () or (G, T); None: no
gradient is wanted.
"""


class Implementation(Protocol):
    """The functions that the module of an implementation has."""

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
        return f"it is for {supported}, got {block.logits.dtype}"
    unknown = [type(formula).__name__ for formula in terms.formulas if formula.kernel is None]
    return f"{unknown[0]} is not among its formulas" if unknown else None
