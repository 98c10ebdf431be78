"""Asymmetric loss: focusing of its own for positives and negatives, and a margin for negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_option
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY, ClassificationLoss
from .one_vs_rest import one_vs_rest
from .sigmoid_focal import focal_of_signed_logits


def asymmetric_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
) -> Tensor:
    """
    Asymmetric loss (ASL), summed over all classes of all anchors not ignored.

        positive: (1 - p)^gamma_pos * -log(p)
        negative: p_m^gamma_neg * -log(1 - p_m),  p_m = max(p - clip, 0)

    (arXiv:2009.14119 section 2. Its own code sums over a batch and divides by nothing; in a
    detector the sum is divided as any other.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        gamma_pos: focusing parameter of positives, >= 0.
        gamma_neg: focusing parameter of negatives, >= 0.
        clip: probability margin in [0, 1): negatives with p below it have no loss and no gradient.
            0 is focal loss with two gammas.

    Returns:
        float32 scalar; 0 with a graph if no anchor is left.

    Raises:
        ValueError: an option or a label outside its legal range, or shapes that do not fit.

    Note:
        The authors' code clamps probabilities at 1e-8, which takes the gradient from positives with
        x < -18.4. Here positives are computed in log space.
    """
    gamma_pos = check_option("gamma_pos", gamma_pos, low=0)
    gamma_neg = check_option("gamma_neg", gamma_neg, low=0)
    return _per_anchor(
        logits,
        labels,
        gamma_pos,
        gamma_neg,
        check_option("clip", clip, low=0, high=1, open_high=True),
    ).sum()


@CLS_LOSS_REGISTRY.register()
class AsymmetricLoss(ClassificationLoss):
    """
    Module of :func:`asymmetric_loss`, with the same options.

    Reported:
        none for RetinaNet; multi-label classification
    """

    config_keys = {
        "gamma_pos": "MODEL.FOCAL.CLS_LOSS.ASL_GAMMA_POS",
        "gamma_neg": "MODEL.FOCAL.CLS_LOSS.ASL_GAMMA_NEG",
        "clip": "MODEL.FOCAL.CLS_LOSS.ASL_CLIP",
    }

    @configurable
    def __init__(
        self, *, gamma_pos: float = 1.0, gamma_neg: float = 4.0, clip: float = 0.05
    ) -> None:
        super().__init__()
        self.gamma_pos = check_option("gamma_pos", gamma_pos, low=0)
        self.gamma_neg = check_option("gamma_neg", gamma_neg, low=0)
        self.clip = check_option("clip", clip, low=0, high=1, open_high=True)

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        return _per_anchor(logits, labels, self.gamma_pos, self.gamma_neg, self.clip)


def _per_anchor(
    logits: Tensor, labels: Tensor, gamma_pos: float, gamma_neg: float, clip: float
) -> Tensor:
    loss = one_vs_rest(
        logits,
        labels,
        positive=lambda x, _: focal_of_signed_logits(x, gamma=gamma_pos),
        negative=lambda x: asymmetric_of_negative_logits(x, gamma=gamma_neg, clip=clip),
    )
    return loss.positive + loss.negative


def asymmetric_of_negative_logits(x: Tensor, *, gamma: float, clip: float) -> Tensor:
    """p_m^gamma * -log(1 - p_m), elementwise."""
    if clip == 0:
        return focal_of_signed_logits(-x, gamma=gamma)
    # 1 - p_m from 1 - p, not from p, which rounds to 1. Below the margin the loss is 0, and so is
    # its gradient: p_m is kept from 0 there, where p_m^gamma has none for gamma < 1.
    above = torch.sigmoid(x) > clip
    one_minus_p_m = (torch.sigmoid(-x) + clip).clamp(max=1.0)
    p_m = torch.where(above, torch.sigmoid(x) - clip, torch.ones_like(x))
    loss = p_m**gamma * -torch.log(one_minus_p_m)
    return torch.where(above, loss, torch.zeros_like(loss))
