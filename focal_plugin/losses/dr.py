"""DR loss: the hardest negatives and positives as two expected probabilities, in one margin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_finite, check_option
from ..ops.formula import refuse_second_derivative
from ..ops.levels import Levels
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .ranking import RankingLoss, levels_of


def dr_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    lambda_pos: float = 1.0,
    lambda_neg: float = 0.0798235600148,
    scale: float = 6.0,
    tau: float = 4.0,
    margin: float = 0.5,
) -> Tensor:
    """
    Compute the distributional ranking loss (DR) of all logits that are not ignored.

        DR = tau / scale * log(1 + exp(scale * (P_neg - P_pos + margin)))
        P_neg = sum_j q_j * p_j,   q = softmax of  p / lambda_neg over the negatives
        P_pos = sum_i r_i * p_i,   r = softmax of -p / lambda_pos over the positives

    p is the sigmoid of a logit. P_neg is 0 without negatives, and P_pos is 1 without positives.

    (arXiv:1907.10156.)

    Args:
        logits: (..., K), any floating dtype; computed in float64.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        lambda_pos: temperature of the positives, > 0.
        lambda_neg: temperature of the negatives, > 0; the authors' is 0.1 / ln(3.5).
        scale: L of the paper, > 0.
        tau: factor of the loss, >= 0.
        margin: the margin, any number.

    Returns:
        scalar, not to be divided by the number of positives; float64 for float64 logits, else
        float32. A differentiable 0 if every anchor is ignored. It can be differentiated once.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.
    """
    options = _Options.checked(lambda_pos, lambda_neg, scale, tau, margin)
    return _loss([logits], [labels], options)


@CLS_LOSS_REGISTRY.register()
class DRLoss(RankingLoss):
    """
    Module of :func:`dr_loss`, with the same options.

    Reported:
        RetinaNet R-50-FPN, COCO, with a prior of .5 and no ignored anchors: 36.3 -> 37.4 AP over
        focal loss
    """

    config_keys = {
        "lambda_pos": "MODEL.FOCAL.CLS_LOSS.DR_LAMBDA_POS",
        "lambda_neg": "MODEL.FOCAL.CLS_LOSS.DR_LAMBDA_NEG",
        "scale": "MODEL.FOCAL.CLS_LOSS.DR_SCALE",
        "tau": "MODEL.FOCAL.CLS_LOSS.DR_TAU",
        "margin": "MODEL.FOCAL.CLS_LOSS.DR_MARGIN",
    }

    @configurable
    def __init__(
        self,
        *,
        lambda_pos: float = 1.0,
        lambda_neg: float = 0.0798235600148,
        scale: float = 6.0,
        tau: float = 4.0,
        margin: float = 0.5,
    ) -> None:
        super().__init__()
        options = _Options.checked(lambda_pos, lambda_neg, scale, tau, margin)
        self.lambda_pos, self.lambda_neg = options.lambda_pos, options.lambda_neg
        self.scale, self.tau, self.margin = options.scale, options.tau, options.margin
        self._options = options

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def of_levels(
        self,
        logits: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        quality: Sequence[Tensor] | None = None,
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        return _loss(logits, labels, self._options) * scale


class _Options(NamedTuple):
    lambda_pos: float
    lambda_neg: float
    scale: float
    tau: float
    margin: float

    @classmethod
    def checked(
        cls, lambda_pos: float, lambda_neg: float, scale: float, tau: float, margin: float
    ) -> _Options:
        return cls(
            lambda_pos=check_option("lambda_pos", lambda_pos, low=0, open_low=True),
            lambda_neg=check_option("lambda_neg", lambda_neg, low=0, open_low=True),
            scale=check_option("scale", scale, low=0, open_low=True),
            tau=check_option("tau", tau, low=0),
            margin=check_finite("margin", margin),
        )


def _loss(logits: Sequence[Tensor], labels: Sequence[Tensor], options: _Options) -> Tensor:
    levels = levels_of(logits, labels)
    loss: Tensor = _DR.apply(levels, options, *levels.logits)
    return loss


class _Softmax(NamedTuple):
    """Softmax of p / temperature over some logits, with p = sigmoid(x). All numbers are float64."""

    temperature: float  # negative for the positives
    log_sum: Tensor  # log of the sum of exp(p / temperature); 0 without a logit
    mean: Tensor  # sum of softmax * p; 0 without a logit
    is_empty: Tensor

    @classmethod
    def over(cls, parts: Iterable[Tensor], temperature: float, device: torch.device) -> _Softmax:
        """Stream float64 logits (V,), without what is -infinity."""
        top = torch.full((), -torch.inf, dtype=torch.float64, device=device)
        total, weighted = torch.zeros_like(top), torch.zeros_like(top)
        for part in parts:
            p = part[part != -torch.inf].sigmoid()
            if not len(p):
                continue
            exponent = p / temperature
            higher = torch.maximum(top, exponent.max())
            weight = (exponent - higher).exp()
            shrink = (top - higher).exp()
            total = total * shrink + weight.sum()
            weighted = weighted * shrink + (weight * p).sum()
            top = higher
        is_empty = total == 0
        log_sum = (top + total.log()).masked_fill(is_empty, 0.0)
        mean = (weighted / total).masked_fill(is_empty, 0.0)
        return cls(temperature, log_sum, mean, is_empty)

    def slope(self, x: Tensor) -> Tensor:
        """Compute the derivative of the mean with respect to each logit; 0 at -infinity."""
        p = x.sigmoid()
        weight = (p / self.temperature - self.log_sum).exp()
        return weight * (1 + (p - self.mean) / self.temperature) * p * (-x).sigmoid()


class _DR(torch.autograd.Function):
    """The loss in two passes over the negatives: their expected probability, and their gradient."""

    @staticmethod
    def forward(ctx: Any, levels: Levels, options: _Options, *logits: Tensor) -> Tensor:
        scores = levels.scores
        negatives = (x for level in levels for _, x in level.negatives())
        ctx.negative = _Softmax.over(negatives, options.lambda_neg, scores.device)
        ctx.positive = _Softmax.over([scores], -options.lambda_pos, scores.device)
        p_pos = ctx.positive.mean.masked_fill(ctx.positive.is_empty, 1.0)
        at = options.scale * (ctx.negative.mean - p_pos + options.margin)
        ctx.slope = options.tau * at.sigmoid()
        ctx.levels = levels
        ctx.save_for_backward(*logits)
        value = options.tau / options.scale * F.softplus(at, threshold=40)
        value = value.masked_fill(ctx.negative.is_empty & ctx.positive.is_empty, 0.0)
        return value.to(torch.promote_types(logits[0].dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        # In float64, before half precision is rounded: the factor may be a loss scale
        factor = ctx.slope * upstream.double()
        of_positives = ctx.levels.split_positives(-factor * ctx.positive.slope(ctx.levels.scores))
        gradients = []
        for level, logits, part in zip(ctx.levels, ctx.saved_tensors, of_positives, strict=True):
            gradient = torch.empty_like(logits)
            for chunk, x in level.with_logits(logits).negatives():
                gradient[chunk] = factor * ctx.negative.slope(x)
            gradient.view(-1)[level.positives.at] = part.to(gradient.dtype)
            gradients.append(gradient)
        return None, None, *gradients
