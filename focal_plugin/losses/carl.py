"""
Classification-aware regression loss (CARL), the box part of PISA.

Shape shorthand:
    ...: any leading shape, one entry per anchor
    P: number of positives
    K: number of classes
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_option
from .one_vs_rest import check_inputs
from .precision import dtype_of_result


def carl_loss(
    logits: Tensor,
    labels: Tensor,
    box_loss: Tensor,
    *,
    k: float = 1.0,
    bias: float = 0.2,
    avg_factor: float | Tensor,
) -> Tensor:
    """
    Compute the classification-aware regression loss (CARL) of sigmoid logits.

        CARL = sum_i w_i * E_i / avg_factor,  w_i = P * v_i / sum_j v_j
        v_i  = (bias + (1 - bias) * p_i)^k

    E_i is the box loss and p_i the score of the true class of positive i. Both receive gradient: a
    positive with a better box than the weighted mean gains score.

    (arXiv:1904.04821 section 4.2.)

    Args:
        logits: (..., K), any floating dtype; computed in float32, or in float64 if it is float64.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        box_loss: (...), box loss; read only where the label is a class.
        k: exponent, >= 0.
        bias: in [0, 1]; the weight of a positive of score 0 relative to one of score 1, before the
            exponent.
        avg_factor: divisor, > 0; a scalar tensor is not checked.

    Returns:
        scalar; a differentiable 0 if there is no positive.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.
    """
    k, bias = check_carl_options(k, bias)
    if not isinstance(avg_factor, Tensor):
        avg_factor = check_option("avg_factor", avg_factor, low=0, open_low=True)
    num_classes = logits.shape[-1] if logits.dim() else 0
    check_inputs(logits, labels, num_classes=num_classes)
    labels = labels.long()
    if box_loss.shape != labels.shape:
        raise ValueError(
            "box_loss and labels must have the same shape, got "
            f"{tuple(box_loss.shape)} and {tuple(labels.shape)}"
        )
    dtype = dtype_of_result(logits, box_loss)
    positives = (labels >= 0) & (labels < num_classes)
    of_class = labels[positives].unsqueeze(1)
    own_logits = logits[positives].to(dtype).gather(1, of_class).squeeze(1)
    errors = box_loss[positives].to(dtype)
    return carl_of_log_scores(F.logsigmoid(own_logits), errors, k=k, bias=bias) / avg_factor


def carl_of_log_scores(log_scores: Tensor, box_loss: Tensor, *, k: float, bias: float) -> Tensor:
    """
    Compute the sum of :func:`carl_loss` from the scores themselves.

    Args:
        log_scores: (P,), logarithm of the score of the true class; finite.
        box_loss: (P,).

    Returns:
        scalar.
    """
    # w is a softmax of k * log(bias + (1 - bias) * p), which no small score makes 0 / 0
    log_slope, log_bias = log_scores.new_tensor([1 - bias, bias]).log()
    log_v = torch.logaddexp(log_scores + log_slope, log_bias)
    return (len(box_loss) * (k * log_v).softmax(0) * box_loss).sum()


def check_carl_options(k: float, bias: float) -> tuple[float, float]:
    """
    Return the options of :func:`carl_loss`.

    Raises:
        IllegalOptionError: one is outside its legal range.
    """
    return check_option("k", k, low=0), check_option("bias", bias, low=0, high=1)
