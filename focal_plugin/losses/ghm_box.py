"""GHM-R: a smooth box loss, weighted by the inverse density of its gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..checks import check_count, check_option
from ..registry import configurable
from .box_inputs import absolute_errors
from .build import BOX_LOSS_REGISTRY, BoxLoss
from .gradient_density import GradientDensity, density_weights

MIN_MU = 1e-9
"""Lower bound of mu. Its square is a float32 other than 0."""


def ghm_box_loss(pred: Tensor, target: Tensor, *, mu: float = 0.02, bins: int = 10) -> Tensor:
    """
    Compute GHM-R over the coordinates of all boxes.

        GHM-R = 1/M * sum_i ASL1(d_i) / count(bin of g_i)
        with ASL1(d) = sqrt(d^2 + mu^2) - mu,   g = |d| / sqrt(d^2 + mu^2),
        M = number of bins that are not empty

    It is an authentic smooth L1 loss (ASL1) with a lower weight for common gradient norms.

    (arXiv:1811.05181, GHM-R with its unit region approximation: in the paper, 1/N * N/M.)

    Args:
        pred: (V, 4), regression deltas; computed in float32.
        target: (V, 4), deltas of the matched ground truth.
        mu: error at which the gradient leaves its linear part, >= 1e-9.
        bins: equal bins of g in [0, 1], an integer >= 1; 1 gives the mean of ASL1.

    Returns:
        float32 scalar, a weighted mean, not to be divided by the number of positives; a
        differentiable 0 if there is no box.

    Raises:
        ValueError: an option is outside its legal range, or the shapes do not match.
    """
    mu = check_option("mu", mu, low=MIN_MU)
    weights_of = functools.partial(density_weights, bins=check_count("bins", bins, low=1))
    return _per_box(absolute_errors(pred, target), mu, weights_of).sum()


@BOX_LOSS_REGISTRY.register()
class GHMBoxLoss(BoxLoss):
    """
    Module of :func:`ghm_box_loss` with counts averaged over processes and steps.

    Its counts are the mean over all processes and, with momentum, over the previous steps. It
    equals the function at momentum 0 on one process, and before its first update.

    Reported:
        with GHM-C, RetinaNet R-50-FPN, COCO: 35.8 -> 37.0 AP over smooth L1
    """

    own_normalizer = True
    stateful = True
    config_keys = {
        "mu": "MODEL.FOCAL.BOX_LOSS.GHM_MU",
        "bins": "MODEL.FOCAL.BOX_LOSS.GHM_BINS",
        "momentum": "MODEL.FOCAL.BOX_LOSS.GHM_MOMENTUM",
    }

    @configurable
    def __init__(self, *, mu: float = 0.02, bins: int = 10, momentum: float = 0.7) -> None:
        """
        Initialize the loss.

        Args:
            mu, bins: see :func:`ghm_box_loss`.
            momentum: weight of the previous counts, in [0, 1).
        """
        super().__init__()
        self.mu = check_option("mu", mu, low=MIN_MU)
        self.density = GradientDensity(bins=bins, momentum=momentum)
        self.bins = self.density.bins
        self.momentum = self.density.momentum

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        return _per_box(absolute_errors(pred, target), self.mu, self.density.weights)

    def update(self, pred: Tensor, target: Tensor) -> None:
        norms = _gradient_norms(absolute_errors(pred, target), self.mu)
        self.density.update(norms, _all_rows(norms))


def _per_box(errors: Tensor, mu: float, weights_of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    norms = _gradient_norms(errors, mu)
    weights = weights_of(norms, _all_rows(norms))
    return (weights * authentic_smooth_l1_of_errors(errors, mu=mu)).sum(dim=1)


def _all_rows(norms: Tensor) -> Tensor:
    return torch.ones(norms.shape[0], dtype=torch.bool, device=norms.device)


@torch.no_grad()
def _gradient_norms(errors: Tensor, mu: float) -> Tensor:
    return errors / torch.sqrt(errors * errors + mu * mu)


def authentic_smooth_l1_of_errors(error: Tensor, *, mu: float) -> Tensor:
    """Compute sqrt(d^2 + mu^2) - mu, elementwise, without cancellation at small errors."""
    return error * error / (torch.sqrt(error * error + mu * mu) + mu)
