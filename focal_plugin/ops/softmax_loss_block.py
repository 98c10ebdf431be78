"""
Inputs that every implementation of :mod:`~focal_plugin.ops.softmax_loss` shares.

A block has the labels 0..C-1 and no quality; C-1 is the background.

Shape shorthand:
    C: number of columns, K+1
    G, T: a tensor of logits in memory is G groups of C planes of T anchors: (G, C, T)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .dense_loss_block import Block, why_no_dtype
from .formula import Formula

KERNELS = ("cross_entropy", "focal")
"""Formulas in C++ and in Triton."""

LARGEST = torch.finfo(torch.float32).max
"""Number that stands for infinity where inf - inf would be NaN."""


@dataclass(frozen=True)
class SoftmaxTerms:
    """
    Loss formula of the signed logit of an anchor, and the weight of the anchor by its label.

    The weights are float32 (C,), on the device of the logits. None: 1 each.
    """

    formula: Formula
    weights: Tensor | None = None

    def parameters(self) -> Tensor:
        """Return the parameters of the kernel, float32 (4,), on the CPU."""
        numbers = [float(x) for x in self.formula.parameters]
        return torch.tensor(numbers + [0.0] * (4 - len(numbers)), device="cpu")


class Evaluate(Protocol):
    """
    Function of an implementation that evaluates the terms of a block.

    It returns the loss of each anchor, float32 (G, T), and the gradient times ``factor``, with the
    layout of the logits. The factor is float32, () or (G, T); None requests no gradient. No slopes
    are collected.
    """

    def __call__(
        self, block: Block, terms: SoftmaxTerms, factor: Tensor | None, slopes: None = None
    ) -> tuple[Tensor, Tensor | None]: ...


class Implementation(Protocol):
    """Interface of an implementation's module."""

    def why_not(self, block: Block, terms: SoftmaxTerms) -> str | None: ...

    def evaluate(
        self, block: Block, terms: SoftmaxTerms, factor: Tensor | None, slopes: None = None
    ) -> tuple[Tensor, Tensor | None]: ...


def why_no_kernel(block: Block, terms: SoftmaxTerms, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """
    Return the reason why a kernel for ``dtypes`` cannot compute the terms of a block, or None.
    """
    formula = terms.formula
    known = formula.kernel in KERNELS
    no_formula = None if known else f"{type(formula).__name__} is not one of its formulas"
    return why_no_dtype(block, dtypes) or no_formula
