"""
RPN heads, which turn a feature level into objectness logits and box deltas.

They are registered in Detectron2's own `RPN_HEAD_REGISTRY`, and its key `MODEL.RPN.HEAD_NAME`
chooses one.

Shape shorthand:
    N: number of images
    C: channels of a feature level
    H, W: height and width of a feature level
    A: anchors per location
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import configurable
from .prior import require_prior


@RPN_HEAD_REGISTRY.register()
class PriorRPNHead(StandardRPNHead):
    """
    Detectron2's `StandardRPNHead` with an object prior pi and optional norms.

        p = sigmoid(s),  b_s = -log((1 - pi) / pi)

    A new head predicts "object" with probability pi, which need not be 1/2. The head is that of
    Faster R-CNN (arXiv:1506.01497 section 3.1), and the prior that of arXiv:1708.02002 section 3.3.
    A norm follows a 3x3 convolution, which then has no bias, and precedes its ReLU. At the default
    keys it is the stock head, which loads stock checkpoints. For all keys, the weights start with
    stock's values.

    Note:
        "BN" or "SyncBN" has one set of running statistics for all levels. Its training batches,
        however, have one level each. "GN" has no running statistics.

    Reported:
        none on COCO
    """

    config_keys: ClassVar[dict[str, str]] = {
        "prior_prob": "MODEL.FOCAL.RPN.PRIOR_PROB",
        "norm": "MODEL.FOCAL.RPN.NORM",
    }

    @configurable
    def __init__(self, *, prior_prob: float = 0.5, norm: str = "", **kwargs: Any) -> None:
        """
        Initialize the head.

        Args:
            prior_prob: pi, the initial probability of an object, in (0, 1).
            norm: a name that Detectron2's `get_norm` accepts, "" for none.
            kwargs: see Detectron2's head.

        Raises:
            ValueError: an option is outside its legal range; the message names its full key.
        """
        # Named here, and in full: Detectron2's builder does not know the key of an argument.
        require_prior(self.config_keys["prior_prob"], prior_prob)
        super().__init__(**kwargs)
        bias = self.objectness_logits.bias
        assert bias is not None
        nn.init.constant_(bias, math.log(prior_prob / (1 - prior_prob)))
        if norm:
            # Only now: stock's constructor initializes the bias of each convolution.
            for conv in self.conv.modules():
                if isinstance(conv, Conv2d):
                    conv.bias = None
                    conv.norm = _make_norm(norm, conv.out_channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            "prior_prob": cfg.MODEL.FOCAL.RPN.PRIOR_PROB,
            "norm": cfg.MODEL.FOCAL.RPN.NORM,
        }


@RPN_HEAD_REGISTRY.register()
class SoftmaxRPNHead(PriorRPNHead):
    """
    Variant of :class:`PriorRPNHead` with a softmax over background and object.

        s = z_1 - z_0:  softmax([z_0, z_1])_1 = sigmoid(s),  CE([z_0, z_1], y) = BCE(s, y)
        b_1 = 0,  b_0 = log((1 - pi) / pi)

    The softmax is that of arXiv:1506.01497 section 3.1. The head returns the difference of the two
    logits. Losses, proposals and export, which expect one logit per anchor, are therefore exact.

    The class of functions is that of a single logit, but two things differ. Gradients move z_0 and
    z_1 in opposite directions, so that SGD moves s twice as fast at the same learning rate. The
    initial weights of s have a standard deviation sqrt(2) larger. All other layers start with
    stock's values; a stock checkpoint has no weights for this layer.

    Reported:
        none on COCO
    """

    @configurable
    def __init__(self, *, prior_prob: float = 0.5, **kwargs: Any) -> None:
        """
        Initialize the head.

        Args:
            prior_prob: pi, the initial probability of an object, in (0, 1).
            kwargs: see :class:`PriorRPNHead`.
        """
        super().__init__(prior_prob=prior_prob, **kwargs)
        with torch.random.fork_rng(devices=[]):  # later layers start as in stock
            self.objectness_logits = PairedObjectness(
                self.objectness_logits.in_channels,
                num_anchors=self.objectness_logits.out_channels,
                prior_prob=prior_prob,
            )


class PairedObjectness(nn.Conv2d):
    """
    Convolution, 1x1, to A pairs of logits that returns their difference.

        s = z_1 - z_0

    The pair of an anchor is its background logit and then its object logit.
    """

    def __init__(self, in_channels: int, *, num_anchors: int, prior_prob: float) -> None:
        """
        Initialize the layer.

        Args:
            in_channels: C.
            num_anchors: A.
            prior_prob: pi, the softmax of the object if all features are 0, in (0, 1).
        """
        super().__init__(in_channels, 2 * num_anchors, kernel_size=1)
        nn.init.normal_(self.weight, std=0.01)
        assert self.bias is not None
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.bias[0::2] = math.log((1 - prior_prob) / prior_prob)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the objectness, (N, C, H, W) -> (N, A, H, W)."""
        pairs = F.conv2d(features, self.weight, self.bias)  # (N, A * 2, H, W)
        return pairs[:, 1::2] - pairs[:, 0::2]


def _make_norm(norm: str, num_channels: int) -> nn.Module:
    try:
        return get_norm(norm, num_channels)
    except KeyError:
        key = PriorRPNHead.config_keys["norm"]
        raise ValueError(f"{key} must be a norm that Detectron2 supports, got {norm!r}") from None
