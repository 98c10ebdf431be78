"""
Box heads, which turn the pooled features of an RoI into the vector that is classified.

They are registered in Detectron2's own `ROI_BOX_HEAD_REGISTRY`, and its key
`MODEL.ROI_BOX_HEAD.NAME` chooses one.
"""

from __future__ import annotations

from typing import Any, ClassVar

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead
from torch import Tensor

from ..checks import check_choice
from ..registry import configurable

NORM_ORDERS = ("norm_relu", "relu_norm")
"""Legal values of `MODEL.FOCAL.ROI_BOX_HEAD.NORM_ORDER`."""


@ROI_BOX_HEAD_REGISTRY.register()
class FocalFastRCNNConvFCHead(FastRCNNConvFCHead):
    """
    Detectron2's `FastRCNNConvFCHead` with a choice of the order of norm and ReLU.

        "norm_relu"  relu(norm(conv(x)))   (stock)
        "relu_norm"  norm(relu(conv(x)))   (the GN heads of tensorpack's Faster R-CNN)

    The norm is `MODEL.ROI_BOX_HEAD.NORM`, which is group norm (arXiv:1803.08494) in both. Without a
    norm, or without a convolution, the order changes nothing. Names and initial values of the
    parameters are stock's in either order. A trained head requires the order of its training.

    Note:
        tensorpack's head has four convolutions and one fully connected layer (`NUM_CONV` 4,
        `NUM_FC` 1). Its convolutions have a bias in addition to the norm, and its mask head has the
        same order. Here a convolution with a norm has no bias, and the mask head is Detectron2's.

    Reported:
        none on COCO for the order alone
    """

    config_keys: ClassVar[dict[str, str]] = {
        "norm_order": "MODEL.FOCAL.ROI_BOX_HEAD.NORM_ORDER",
    }

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, norm_order: str = "norm_relu", **kwargs: Any
    ) -> None:
        """
        Initialize the head.

        Args:
            input_shape: shape of the pooled features of an RoI.
            norm_order: "norm_relu" or "relu_norm".
            kwargs: see Detectron2's head.

        Raises:
            ValueError: the order is neither; the message names its full key.
        """
        # Named here, and in full: Detectron2's builder does not know the key of an argument.
        check_choice(self.config_keys["norm_order"], norm_order, NORM_ORDERS)
        super().__init__(input_shape, **kwargs)
        if norm_order == "relu_norm":
            for name, layer in self.named_children():
                if isinstance(layer, Conv2d) and layer.norm is not None:
                    setattr(self, name, _norm_last(layer))
            # stock's own list of the convolutions
            self.conv_norm_relus = [layer for layer in self if isinstance(layer, Conv2d)]

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            "norm_order": cfg.MODEL.FOCAL.ROI_BOX_HEAD.NORM_ORDER,
        }


class ReLUNormConv2d(Conv2d):
    """
    Detectron2's `Conv2d` with the norm last. It requires both a norm and an activation.

        norm(activation(conv(x)))
    """

    def forward(self, features: Tensor) -> Tensor:
        """Compute (N, in_channels, H, W) -> (N, out_channels, H, W)."""
        convolved = self._conv_forward(features, self.weight, self.bias)
        return self.norm(self.activation(convolved))


def _norm_last(conv: Conv2d) -> ReLUNormConv2d:
    """Return ``conv`` in the other order, with the same parameter objects."""
    reordered = ReLUNormConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        padding=conv.padding,
        norm=conv.norm,
        activation=conv.activation,
        device="meta",  # draws no random numbers: later layers start as in stock
    )
    reordered.weight, reordered.bias = conv.weight, conv.bias
    return reordered
