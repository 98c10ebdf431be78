"""
Ranking of the positive logits among all logits, for losses of their order.

For each positive i, its false positives are

    FP_i = sum over negatives j of H(x_j - x_i),   H as in :mod:`~focal_plugin.ops.ramps`

The update of a negative is a sum of ramps, g_j = sum over i of w_i * H(x_j - x_i), so it is
piecewise linear in x_j. The negatives are streamed twice in any layout, and never sorted: time is
O((P + N) log P), and memory is a chunk and the gradient, for P positives and N negatives.

(arXiv:1904.06373 and arXiv:2008.07294 define the update, which is no derivative of the value.)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from . import ranking_cpp, ranking_eager
from .formula import refuse_second_derivative
from .implementations import choose
from .levels import Level, Levels
from .ramps import Line, Ramps, Tally
from .recycled import empty_recycled

PAIRS_PER_CHUNK = 1 << 18
"""Number of pairs of positives in a chunk, which fits the cache."""


class _Implementation(Protocol):
    """Interface of an implementation's module."""

    def why_not(self, device: torch.device) -> str | None: ...

    def tally(self, level: Level, ramps: Ramps) -> Tally: ...

    def write(self, level: Level, ramps: Ramps, line: Line, gradient: Tensor) -> None: ...


MODULES: dict[str, _Implementation] = {"cpp": ranking_cpp, "eager": ranking_eager}


class Ranking:
    """
    Order of the positives among all logits of a batch.

    Attributes:
        levels: the logits.
        scores: (P,), float64, the positive logits.
        self_count: H(0), the part of :meth:`sum_of_higher` that is the positive itself.
        false_positives: (P,), float64, FP_i; NaN if a negative is NaN.
    """

    @torch.no_grad()
    def __init__(self, levels: Levels, *, delta: float, impl: str = "auto") -> None:
        """
        Rank the positives.

        Args:
            levels: the logits, computed in float64.
            delta: half width of the ramp, >= 0; 0: H is the step [x >= 0].
            impl: "cpp" (the extension; CPU), "eager" (PyTorch, in chunks), or "auto", the first
                of these that is available.

        Raises:
            ValueError: ``impl`` is none of these, or is not available on this device.
        """
        self.levels = levels
        self.scores = levels.scores
        self.self_count = 0.5 if delta else 1.0
        self._delta = delta
        self._module = MODULES[_choose(impl, self.scores.device)]
        self.false_positives = torch.zeros_like(self.scores)
        if len(self.scores):
            self._ramps = Ramps(self.scores, delta)
            tallies = [self._module.tally(level, self._ramps) for level in levels]
            counts, sums = (functools.reduce(torch.add, x) for x in zip(*tallies, strict=True))
            self.false_positives = self._ramps.sums(Tally(counts, sums))

    def sum_of_higher(self, weights: Tensor | None = None) -> Tensor:
        """
        Compute the sum of weight_j * H(x_j - x_i) over all positives j, i itself included.

        Args:
            weights: (P,), float64, >= 0; None: 1 each.

        Returns:
            float64 (P,).
        """
        if not len(self.scores):
            return torch.zeros_like(self.scores)
        return self._ramps.sums(self._ramps.tally(self.scores, weights))

    def pairs(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield H(x_j - x_i) of all positives j, float64 (rows, P), for some rows i at a time."""
        rows = max(PAIRS_PER_CHUNK // max(len(self.scores), 1), 1)
        for first in range(0, len(self.scores), rows):
            some = slice(first, first + rows)
            gap = self.scores - self.scores[some].unsqueeze(1)
            if self._delta:
                yield some, (gap / (2 * self._delta) + 0.5).clamp_(0, 1)
            else:
                yield some, (gap >= 0).double()

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the positives, of (P,); 0 if there are none."""
        return values.sum() / max(len(self.scores), 1)

    def loss(self, values: Tensor, weights: Tensor, gradient: Tensor) -> Tensor:
        """
        Return the mean loss of the positives, with its published update as gradient.

        Args:
            values: float64 (P,), the loss of each positive.
            weights: float64 (P,), w_i in P * g_j, where g_j is the gradient of a negative.
            gradient: float64 (P,), P times the gradient of each positive.

        Returns:
            scalar, float64 if the logits are, else float32; a differentiable 0 if there is no
            positive. The gradient is exactly 0 at ignored anchors, NaN included, and at negatives
            below all ramps. An upstream gradient is its factor. It has the dtype and the layout of
            the logits, and cannot be differentiated again.
        """
        loss: Tensor = _Loss.apply(self, values, weights, gradient, *self.levels.logits)
        return loss

    def write(self, logits: Sequence[Tensor], weights: Tensor, gradient: Tensor) -> list[Tensor]:
        """Return the gradient of each level, (G, K, T), for weights and gradient (P,)."""
        if not len(self.scores):
            return [torch.zeros_like(x) for x in logits]
        line = self._ramps.line(weights)
        gradients = [empty_recycled(x) for x in logits]
        parts = self.levels.split_positives(gradient)
        for level, x, out, part in zip(self.levels, logits, gradients, parts, strict=True):
            self._module.write(level.with_logits(x), self._ramps, line, out)
            out.view(-1)[level.positives.at] = part.to(out.dtype)
        return gradients


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        ranking: Ranking,
        values: Tensor,
        weights: Tensor,
        gradient: Tensor,
        *logits: Tensor,
    ) -> Tensor:
        ctx.ranking, ctx.weights, ctx.gradient = ranking, weights, gradient
        ctx.save_for_backward(*logits)
        return ranking.mean(values).to(torch.promote_types(logits[0].dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        # In float64, before half precision is rounded: the factor may be a loss scale
        factor = upstream.double() / max(len(ctx.weights), 1)
        gradients = ctx.ranking.write(
            ctx.saved_tensors, ctx.weights * factor, ctx.gradient * factor
        )
        return None, None, None, None, *gradients


def _choose(impl: str, device: torch.device) -> str:
    def why_not(name: str) -> str | None:
        return MODULES[name].why_not(device) if name in MODULES else "it has no kernel for rankings"

    return choose(impl, device, why_not)
