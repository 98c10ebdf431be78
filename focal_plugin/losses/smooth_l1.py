"""Smooth L1 of regression deltas, and L1, which is its limit."""

from __future__ import annotations

from torch import Tensor

from ..checks import check_option
from ..registry import configurable
from .box_inputs import absolute_errors
from .build import BOX_LOSS_REGISTRY, BoxLoss

L1_BELOW_BETA = 1e-5
"""fvcore's bound; the two differ by at most beta / 2."""


def l1_loss(pred: Tensor, target: Tensor) -> Tensor:
    """
    L1 loss, summed over the coordinates of all boxes.

        L1(d) = |d|

    (The limit beta -> 0 of smooth L1, arXiv:1504.08083 eq. 3.)

    Args:
        pred: (V, 4), regression deltas; computed in float32.
        target: (V, 4), deltas of the matched ground truth.

    Returns:
        float32 scalar; 0 with a graph if there is no box.

    Raises:
        ValueError: shapes that do not fit.
    """
    return absolute_errors(pred, target).sum()


def smooth_l1_loss(pred: Tensor, target: Tensor, *, beta: float = 0.0) -> Tensor:
    """
    Smooth L1 loss, summed over the coordinates of all boxes.

        SL1(d) = d^2 / (2 beta)   if |d| < beta
                 |d| - beta / 2   otherwise

    (arXiv:1504.08083 eq. 3, there with beta = 1.)

    Args:
        pred: (V, 4), regression deltas; computed in float32.
        target: (V, 4), deltas of the matched ground truth.
        beta: where the parabola ends, >= 0; 0 is L1.

    Returns:
        float32 scalar; 0 with a graph if there is no box.

    Raises:
        ValueError: beta outside its legal range, or shapes that do not fit.
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
    """Elementwise, of errors >= 0."""
    if beta < L1_BELOW_BETA:
        return error
    # Parabola up to beta, slope 1 for what lies above it: no branch that could overflow unseen.
    below = error.clamp(max=beta)
    return below * below / (2 * beta) + (error - below)
