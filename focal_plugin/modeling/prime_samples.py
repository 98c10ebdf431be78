"""
Prime sample attention: weights of the classification loss, and a box term that trains the scores.

`MODEL.FOCAL.REWEIGHT.NAME` names the weights, and `MODEL.FOCAL.CARL.WEIGHT` adds the box term.

Shape shorthand:
    ...: any leading shape, one entry per anchor or RoI
    V: anchors or RoIs with an object
    K: number of classes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from yacs.config import CfgNode

from ..checks import check_option
from ..losses import BoxLoss, ClassificationLoss, isr_p_weights
from ..losses.base import require_rows
from ..losses.carl import carl_of_log_scores, check_carl_options
from ..registry import (
    DENSE,
    ConfigScope,
    ConfigurableModule,
    build_named,
    build_part,
    configurable,
)


class ISRPReweighting(ConfigurableModule):
    """
    Weights of the classification loss by the importance of each positive, ISR-P of PISA.

        w_i = (bias + (1 - bias) * (n - h_i) / n)^k * sum_j L_j / sum_j w_j L_j

    They are those of :func:`~focal_plugin.losses.isr_p_weights` (arXiv:1904.04821). A weight
    multiplies all K terms of a positive. All other weights are 1.

    Reported:
        with CARL, at equal code: RetinaNet R-50-FPN, COCO: 36.5 -> 36.9 AP
    """

    config_keys = {"k": "MODEL.FOCAL.REWEIGHT.K", "bias": "MODEL.FOCAL.REWEIGHT.BIAS"}

    @configurable
    def __init__(self, *, k: float = 2.0, bias: float = 0.0) -> None:
        """
        Initialize the weights.

        Args:
            k, bias: see :func:`~focal_plugin.losses.isr_p_weights`.
        """
        super().__init__()
        self.k = check_option("k", k, low=0)
        self.bias = check_option("bias", bias, low=0, high=1)

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(
        self, labels: Tensor, objects: Tensor, iou: Tensor, loss: Tensor, *, num_classes: int
    ) -> Tensor:
        """Compute the weight of each loss, (...), from the arguments of `isr_p_weights`."""
        return isr_p_weights(
            labels, objects, iou, loss, num_classes=num_classes, k=self.k, bias=self.bias
        )

    if TYPE_CHECKING:  # nn.Module declares its call as Callable[..., Any]
        __call__ = forward


class CARLTerm(ConfigurableModule):
    """
    Box term whose weights are scores with gradient, CARL of PISA, in addition to the box loss.

    It is :func:`~focal_plugin.losses.carl_loss` (arXiv:1904.04821) with the probabilities that the
    classification loss defines.

    Reported:
        with ISR-P, at equal code: RetinaNet R-50-FPN, COCO: 36.5 -> 36.9 AP
    """

    config_keys = {
        "weight": "MODEL.FOCAL.CARL.WEIGHT",
        "k": "MODEL.FOCAL.CARL.K",
        "bias": "MODEL.FOCAL.CARL.BIAS",
    }

    @configurable
    def __init__(self, *, weight: float = 1.0, k: float = 1.0, bias: float = 0.2) -> None:
        """
        Initialize the term.

        Args:
            weight: factor of the term, >= 0.
            k, bias: see :func:`~focal_plugin.losses.carl_loss`.
        """
        super().__init__()
        self.weight = check_option("weight", weight, low=0)
        self.k, self.bias = check_carl_options(k, bias)

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(self, probabilities: Tensor, classes: Tensor, box_loss: Tensor) -> Tensor:
        """
        Compute the term.

        Args:
            probabilities: (V, K+1), of each class and the background, with gradient.
            classes: int64 (V,), in 0..K-1.
            box_loss: (V,), box losses, divided by their normalizer.

        Returns:
            float32 scalar; a differentiable 0 if there is no object.
        """
        scores = probabilities.gather(1, classes.unsqueeze(1)).squeeze(1).float()
        log_scores = scores.clamp(min=torch.finfo(scores.dtype).tiny).log()
        return self.weight * carl_of_log_scores(log_scores, box_loss, k=self.k, bias=self.bias)

    if TYPE_CHECKING:  # nn.Module declares its call as Callable[..., Any]
        __call__ = forward


REWEIGHTINGS: dict[str, type[ISRPReweighting]] = {"isr_p": ISRPReweighting}
"""Values of `MODEL.FOCAL.REWEIGHT.NAME`, in addition to the empty one."""


def build_reweighting(cfg: CfgNode, config_scope: ConfigScope = DENSE) -> ISRPReweighting | None:
    """
    Build the weights that `MODEL.FOCAL.REWEIGHT.NAME` names; None if the name is empty.

    Args:
        config_scope: the location of the name and the options, if they are moved.

    Raises:
        KeyError: the name is unknown.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    if not config_scope.read(cfg, "MODEL.FOCAL.REWEIGHT.NAME"):
        return None
    names = REWEIGHTINGS.items()
    return build_named(names, "MODEL.FOCAL.REWEIGHT.NAME", cfg, config_scope=config_scope)


def build_carl(cfg: CfgNode, config_scope: ConfigScope = DENSE) -> CARLTerm | None:
    """
    Build the term of `MODEL.FOCAL.CARL`; None if its weight is 0.

    Args:
        config_scope: the location of the options, if they are moved.

    Raises:
        ValueError: an option is outside its legal range; the message names its full key.
    """
    if config_scope.read(cfg, CARLTerm.config_keys["weight"]) == 0:
        return None
    return build_part(CARLTerm, cfg, config_scope)


def check_prime_samples(
    cls_loss: ClassificationLoss,
    box_loss: BoxLoss,
    reweighting: ISRPReweighting | None,
    carl: CARLTerm | None,
) -> None:
    """
    Check that the losses can be weighted by prime samples.

    Raises:
        ValueError: a loss is a sum only, or the classification loss weighs the boxes itself.
    """
    if reweighting is not None:
        require_rows(cls_loss)
        if cls_loss.needs_box_loss:
            raise ValueError(
                f"{type(cls_loss).__name__} has no loss per anchor that MODEL.FOCAL.REWEIGHT could "
                "weigh: it weighs the boxes itself"
            )
    if carl is not None:
        require_rows(box_loss)


def objects_of_batch(objects: Tensor) -> Tensor:
    """
    Assign numbers to the objects of all images.

    Args:
        objects: int64 (N, R), >= -1, index of an object in its image.

    Returns:
        int64 (N, R); two anchors of different images have different numbers.
    """
    images = torch.arange(len(objects), device=objects.device).unsqueeze(1)
    return images * (objects.amax() + 2) + objects + 1
