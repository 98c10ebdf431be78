"""Huber loss of regression deltas, divided by the end of its parabola."""

from __future__ import annotations

from torch import Tensor

from ..checks import check_option
from ..registry import configurable
from .box_inputs import absolute_errors
from .build import BOX_LOSS_REGISTRY, BoxLoss
from .smooth_l1 import smooth_l1_of_errors


def huber_loss(pred: Tensor, target: Tensor, *, delta: float = 1 / 9) -> Tensor:
    """
    Compute the Huber loss divided by delta, summed over the coordinates of all boxes.

        Huber(d) / delta = d^2 / (2 delta)   if |d| < delta
                           |d| - delta / 2   otherwise

    (In value and gradient it is smooth L1 with beta = delta, arXiv:1504.08083 eq. 3.)

    Args:
        pred: (V, 4), regression deltas; computed in float32.
        target: (V, 4), deltas of the matched ground truth.
        delta: end of the parabola, > 0. 1/9 is the value of tensorpack for proposals.

    Returns:
        float32 scalar; a differentiable 0 if there is no box.

    Raises:
        ValueError: delta is outside its legal range, or the shapes do not match.

    Note:
        The original Huber loss has slope delta in its linear part and vanishes with delta. Divided
        by delta, the slope is 1 for every delta.
    """
    delta = check_option("delta", delta, low=0, open_low=True)
    return smooth_l1_of_errors(absolute_errors(pred, target), beta=delta).sum()


@BOX_LOSS_REGISTRY.register()
class HuberLoss(BoxLoss):
    """
    Module of :func:`huber_loss`, with the same options.

    Reported:
        none on COCO
    """

    config_keys = {"delta": "MODEL.FOCAL.BOX_LOSS.HUBER_DELTA"}

    @configurable
    def __init__(self, *, delta: float = 1 / 9) -> None:
        super().__init__()
        self.delta = check_option("delta", delta, low=0, open_low=True)

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        return smooth_l1_of_errors(absolute_errors(pred, target), beta=self.delta).sum(dim=1)
