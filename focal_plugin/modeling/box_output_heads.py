"""
RetinaNet heads that predict more of a box than its four deltas.

In training, their second output holds more than four numbers per anchor. `deltas_of` computes the
deltas, and `auxiliary_losses` the losses of the rest. In evaluation they return logits and deltas,
so that Detectron2's decoding and export work.

Shape shorthand:
    N: number of images
    C: channels of a feature
    A: anchors per location
    K: number of classes
    B: number of bins
    D: numbers per anchor in the second output of training
    V: positive anchors in the batch
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_count, check_option
from ..losses.distribution_focal import distribution_focal_loss, expected_distance
from ..losses.processes import mean_over_processes
from ..registry import configurable
from .distance_transform import DistanceTransform
from .heads import RETINANET_HEAD_REGISTRY, FocalRetinaNetHead


class BoxOutputs(NamedTuple):
    """Second output of a head for the positive anchors of a batch."""

    outputs: Tensor  # (V, D)
    anchors: Tensor  # (V, 4), XYXY
    gt_boxes: Tensor  # (V, 4), XYXY
    weights: Tensor | None  # (V,), weights of the box losses; None: 1 each
    divisors: Tensor  # (V,), divisors of the box losses


class BoxOutputHead(FocalRetinaNetHead):
    """Base class of the heads of this module."""

    box_channels: int = 4
    """Numbers per anchor in the second output of training, D."""

    def deltas_of(self, outputs: Tensor) -> Tensor:
        """Compute the deltas, (..., D) -> (..., 4)."""
        raise NotImplementedError

    def auxiliary_losses(self, boxes: BoxOutputs) -> dict[str, Tensor]:
        """Compute the losses besides the box loss: name -> float32 scalar."""
        raise NotImplementedError


@RETINANET_HEAD_REGISTRY.register()
class DistributionRetinaNetHead(BoxOutputHead):
    """
    Head that predicts a distribution over bins for the distance to each side of a box.

        distance = sum of i * softmax(x)_i over the bins i = 0..B-1, in units of a bin

    A bin is 1/8 of the side of the anchor, which is the stride for anchors of 8 strides. A box is
    decoded from the center of its anchor. `loss_dfl` is the distribution focal loss of the four
    sides. It has the weights and the divisor of the box loss. It is the head of GFL
    (arXiv:2006.04388 section 3.2).

    Note:
        The center of a positive must lie inside its object, as with the assigner "atss". A side
        that is farther away than the last bin, or on the other side of the center, is clipped.

    Reported:
        R-50-FPN, COCO: 39.4 -> 40.2 AP over ATSS, together with quality focal loss
    """

    config_keys: ClassVar[dict[str, str]] = {
        **FocalRetinaNetHead.config_keys,
        "num_bins": "MODEL.FOCAL.HEAD.NUM_BINS",
        "dfl_weight": "MODEL.FOCAL.HEAD.DFL_WEIGHT",
    }
    box2box_transform = DistanceTransform()

    @configurable
    def __init__(self, *, num_bins: int = 17, dfl_weight: float = 0.25, **kwargs: Any) -> None:
        """
        Initialize the head.

        Args:
            num_bins: B, at least 2.
            dfl_weight: factor of `loss_dfl`, >= 0.
            kwargs: see :class:`FocalRetinaNetHead`.
        """
        super().__init__(**kwargs)
        self.num_bins = check_count("num_bins", num_bins, low=2)
        self.dfl_weight = check_option("dfl_weight", dfl_weight, low=0)
        self.bins_per_side = 8  # of an anchor
        num_levels = len(kwargs["input_shape"])
        num_anchors = self.bbox_pred.out_channels // 4
        self.box_channels = 4 * self.num_bins
        self.bbox_pred = nn.Conv2d(
            self.bbox_pred.in_channels, num_anchors * self.box_channels, kernel_size=3, padding=1
        )
        nn.init.normal_(self.bbox_pred.weight, std=0.01)
        assert self.bbox_pred.bias is not None
        nn.init.zeros_(self.bbox_pred.bias)
        self.scales = nn.Parameter(torch.ones(num_levels))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            "num_bins": cfg.MODEL.FOCAL.HEAD.NUM_BINS,
            "dfl_weight": cfg.MODEL.FOCAL.HEAD.DFL_WEIGHT,
        }

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """
        Compute logits, and the logits of the bins of each level.

        Returns:
            the logits, (N, A * K, Hi, Wi) per level; and in training the logits of the bins,
            (N, A * 4 * B, Hi, Wi), in evaluation the deltas, (N, A * 4, Hi, Wi).
        """
        logits: list[Tensor] = []
        outputs: list[Tensor] = []
        for level, feature in enumerate(features):
            logits.append(self.cls_score(self.cls_subnet(feature)))
            bins = self.bbox_pred(self.bbox_subnet(feature)) * self.scales[level]
            if not self.training:
                num_images, _, height, width = bins.shape
                # a view, because ONNX would keep the height and the width of `unflatten`
                bins = bins.view(num_images, -1, self.num_bins, height, width)
                bins = expected_distance(bins.movedim(2, -1)) / self.bins_per_side
            outputs.append(bins)
        return logits, outputs

    @torch.jit.unused
    def deltas_of(self, outputs: Tensor) -> Tensor:
        return expected_distance(outputs.unflatten(-1, (4, self.num_bins))) / self.bins_per_side

    @torch.jit.unused
    def auxiliary_losses(self, boxes: BoxOutputs) -> dict[str, Tensor]:
        logits = boxes.outputs.unflatten(-1, (4, self.num_bins))
        deltas = self.box2box_transform.get_deltas(boxes.anchors, boxes.gt_boxes)
        per_side = distribution_focal_loss(logits, deltas * self.bins_per_side)  # (V, 4)
        loss = per_side.mean(dim=1) / boxes.divisors
        if boxes.weights is not None:
            loss = loss * boxes.weights
        return {"loss_dfl": self.dfl_weight * loss.sum()}


@RETINANET_HEAD_REGISTRY.register()
class CenternessRetinaNetHead(BoxOutputHead):
    """
    Head with a third output, the centerness of the anchor in its object.

        c = sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)),  score = sqrt(p * sigmoid(z))

    l, t, r and b are the distances of the anchor's center to the sides of its object. The logit z
    comes from the box tower. `loss_centerness` is the cross entropy with the target c, averaged
    over the positives. In evaluation, it multiplies the score of each class. It is the head of FCOS
    (arXiv:1904.01355 section 3.4) and of ATSS (arXiv:1912.02424), with the towers of the config.

    Reported:
        R-50-FPN, COCO: 39.3 AP with ATSS, GIoU loss and group norm; the branch alone is not there
    """

    box_channels = 5

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        """
        Initialize the head.

        Args:
            kwargs: see :class:`FocalRetinaNetHead`.
        """
        super().__init__(**kwargs)
        num_anchors = self.bbox_pred.out_channels // 4
        self.centerness = nn.Conv2d(
            self.bbox_pred.in_channels, num_anchors, kernel_size=3, padding=1
        )
        nn.init.normal_(self.centerness.weight, std=0.01)
        assert self.centerness.bias is not None
        nn.init.zeros_(self.centerness.bias)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """
        Compute logits, deltas and centerness of each level.

        Returns:
            in training the logits, (N, A * K, Hi, Wi) per level, and deltas with centerness,
            (N, A * 5, Hi, Wi); in evaluation the logits of the scores, and the deltas.
        """
        logits: list[Tensor] = []
        outputs: list[Tensor] = []
        for feature in features:
            scores = self.cls_score(self.cls_subnet(feature))
            tower = self.bbox_subnet(feature)
            deltas = self.bbox_pred(tower)
            centerness = self.centerness(tower)
            num_images, num_anchors, height, width = centerness.shape
            # views, because ONNX would keep the height and the width of `unflatten`
            centerness = centerness.view(num_images, num_anchors, 1, height, width)
            if self.training:
                deltas = deltas.view(num_images, num_anchors, 4, height, width)
                deltas = torch.cat([deltas, centerness], dim=2).flatten(1, 2)
            else:
                of_anchor = scores.view(num_images, num_anchors, -1, height, width)
                scores = logit_of_geometric_mean(of_anchor, centerness).flatten(1, 2)
            logits.append(scores)
            outputs.append(deltas)
        return logits, outputs

    @torch.jit.unused
    def deltas_of(self, outputs: Tensor) -> Tensor:
        return outputs[..., :4]

    @torch.jit.unused
    def auxiliary_losses(self, boxes: BoxOutputs) -> dict[str, Tensor]:
        target = centerness_of(boxes.anchors, boxes.gt_boxes)
        logits = boxes.outputs[:, 4].float()
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        count = mean_over_processes(logits.new_tensor(float(len(target))))
        return {"loss_centerness": loss / count.clamp(min=1)}


def centerness_of(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    """
    Compute the centerness of anchors in their objects, 0 for a center outside.

    Args:
        anchors, gt_boxes: (V, 4), XYXY.

    Returns:
        float32 (V,), in [0, 1].
    """
    center = (anchors[:, :2] + anchors[:, 2:]).float() / 2
    lower, upper = center - gt_boxes[:, :2], gt_boxes[:, 2:] - center  # (V, 2)
    smaller, larger = torch.minimum(lower, upper), torch.maximum(lower, upper)
    ratio = (smaller / larger.clamp(min=1e-6)).clamp(min=0)
    return ratio.prod(dim=1).sqrt()


def logit_of_geometric_mean(first: Tensor, second: Tensor) -> Tensor:
    """Compute the logit of sqrt(sigmoid(a) * sigmoid(b)), elementwise, in float32."""
    log_p = (F.logsigmoid(first.float()) + F.logsigmoid(second.float())) / 2
    return log_p - torch.log(-torch.expm1(log_p.clamp(max=-1e-7)))
