"""
Inputs that every implementation of :mod:`~focal_plugin.ops.dense_loss` shares.

A block holds the logits in their memory layout. The terms hold the loss formula of each logit.

Shape shorthand:
    K: number of classes
    G, T: a tensor of logits in memory is G groups of K planes of T anchors: (G, K, T)
"""

from __future__ import annotations

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

    ``spared``, bool (K,), are classes without a negative at an anchor of another class. The
    background is no class. ``anchor_weight``, (K+1,), multiplies all logits of an anchor by the
    weight of its label.
    """

    positive: Formula
    negative: Formula
    positive_weight: float | Tensor = 1.0
    negative_weight: float | Tensor = 1.0
    spared: Tensor | None = None
    anchor_weight: Tensor | None = None

    @property
    def formulas(self) -> tuple[Formula, Formula]:
        return self.positive, self.negative

    def weights(self, num_classes: int, device: torch.device) -> Tensor:
        """
        Return the weights, float32 (3, K).

        Row 0 is for positives, row 1 for negatives of background anchors, and row 2 for negatives
        of anchors with a class.
        """
        weights = torch.empty(3, num_classes, device=device)
        numbers = (self.positive_weight, self.negative_weight, self.negative_weight)
        for row, weight in enumerate(numbers):
            weights[row] = weight if isinstance(weight, Tensor) else float(weight)
        if self.spared is not None:
            weights[2].masked_fill_(self.spared, 0.0)
        return weights

    def weight_of_anchors(self, labels: Tensor) -> Tensor | None:
        """Return the weight of each anchor, shaped as labels, or None; ignored ones have any."""
        return None if self.anchor_weight is None else self.anchor_weight[labels.long()]


class Block(NamedTuple):
    """Logits in their memory layout, with the labels and qualities of their anchors."""

    logits: Tensor  # (G, K, T), contiguous, any floating dtype
    labels: Tensor  # (G, T), int32 in {-1 (ignored), 0..K-1, K (background)}, contiguous
    quality: Tensor | None  # (G, T), float32, contiguous


class Evaluate(Protocol):
    """
    Function of an implementation that evaluates the terms of a block.

    It returns the loss of each anchor, float32 (G, T), and the gradient times ``factor``, with the
    layout of the logits. The factor is float32, () or (G, T); None requests no gradient. To
    ``slopes``, float64 (2, K), it adds the sum of |weight * slope| of each class: row 0 for its
    positives, row 1 for its negatives.
    """

    def __call__(
        self, block: Block, terms: Terms, factor: Tensor | None, slopes: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]: ...


class Implementation(Protocol):
    """Interface of an implementation's module."""

    def why_not(self, block: Block, terms: Terms) -> str | None: ...

    def evaluate(
        self, block: Block, terms: Terms, factor: Tensor | None, slopes: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]: ...


def has_parameters_per_class(formula: Formula) -> bool:
    """Return True if a parameter of the kernel is a tensor."""
    return any(isinstance(x, Tensor) for x in formula.parameters)


def parameter_table(formula: Formula, num_classes: int, device: torch.device) -> Tensor:
    """Return the parameters of a kernel, float32 (4, K) if one of them is a tensor, else (4, 1)."""
    columns = num_classes if has_parameters_per_class(formula) else 1
    table = torch.zeros(4, columns, device=device)
    for row, number in enumerate(formula.parameters):
        table[row] = number
    return table


def why_no_dtype(block: Block, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Return the reason why a kernel for ``dtypes`` cannot read the logits of a block, or None."""
    if block.logits.dtype in dtypes:
        return None
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    supported = ", ".join(names[:-1]) + f" and {names[-1]}"
    return f"it supports {supported}, got {block.logits.dtype}"


def why_no_kernel(block: Block, terms: Terms, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """
    Return the reason why a kernel for ``dtypes`` cannot compute the terms of a block, or None.
    """
    unknown = [type(formula).__name__ for formula in terms.formulas if formula.kernel is None]
    no_formula = f"{unknown[0]} is not one of its formulas" if unknown else None
    return why_no_dtype(block, dtypes) or no_formula
