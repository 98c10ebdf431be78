"""Smooth L1 of regression deltas, and its limit, L1."""

from __future__ import annotations

from torch import Tensor

from ..checks import check_option
from ..registry import configurable
from .box_inputs import absolute_errors
from .build import BOX_LOSS_REGISTRY, BoxLoss

L1_BELOW_BETA = 1e-5
"""Value of beta below which the loss is L1, as in fvcore. The two differ by at most beta / 2."""


def l1_loss(pred: Tensor, target: Tensor) -> Tensor:
    """
    Compute the L1 loss, summed over the coordinates of all boxes.

        L1(d) = |d|

    (It is the limit beta -> 0 of smooth L1, arXiv:1504.08083 eq. 3.)

    Args:
        pred: (V, 4), regression deltas; computed in float32.
        target: (V, 4), deltas of the matched ground truth.

    Returns:
        float32 scalar; a differentiable 0 if there is no box.

    Raises:
        ValueError: the shapes do not match.
    """
    return absolute_errors(pred, target).sum()


def smooth_l1_loss(pred: Tensor, target: Tensor, *, beta: float = 0.0) -> Tensor:
    """
    Compute the smooth L1 loss, summed over the coordinates of all boxes.

        SL1(d) = d^2 / (2 beta)   if |d| < beta
                 |d| - beta / 2   otherwise

    (arXiv:1504.08083 eq. 3, which has beta = 1.)

    Args:
        pred: (V, 4), regression deltas; computed in float32.
        target: (V, 4), deltas of the matched ground truth.
        beta: end of the parabola, >= 0; 0 gives L1.

    Returns:
        float32 scalar; a differentiable 0 if there is no box.

    Raises:
        ValueError: beta is outside its legal range, or the shapes do not match.
    """
    beta = check_option("beta", beta, low=0)
    return smooth_l1_of_errors(absolute_errors(pred, target), beta=beta).sum()


@BOX_LOSS_REGISTRY.register()
class L1Loss(BoxLoss):
    """
    Module of :func:`l1_loss`.

    Reported:
        none; mmdetection's Faster R-CNN R-50-FPN has 37.4 AP with it on COCO
    """

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        return absolute_errors(pred, target).sum(dim=1)


@BOX_LOSS_REGISTRY.register()
class SmoothL1Loss(BoxLoss):
    """
    Module of :func:`smooth_l1_loss`, with the same options.

    Reported:
        none on COCO
    """

    config_keys = {"beta": "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA"}

    @configurable
    def __init__(self, *, beta: float = 0.0) -> None:
        super().__init__()
        self.beta = check_option("beta", beta, low=0)

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        return smooth_l1_of_errors(absolute_errors(pred, target), beta=self.beta).sum(dim=1)


def smooth_l1_of_errors(error: Tensor, *, beta: float) -> Tensor:
    """Compute the loss elementwise, for errors >= 0."""
    if beta < L1_BELOW_BETA:
        return error
    # Parabola up to beta, and slope 1 above it: no hidden branch can overflow.
    below = error.clamp(max=beta)
    return below * below / (2 * beta) + (error - below)
