"""
RetinaNet whose losses, mining, normalizer, head and matcher are parts that a config names.

Shape shorthand:
    N: number of images
    Hi, Wi: height and width of feature level i
    A: anchors per location
    R: anchors per image over all levels, the sum of Hi * Wi * A
    K: number of classes
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet
from detectron2.modeling.meta_arch import retinanet as stock_retinanet
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..checks import check_choice, check_option
from ..losses import (
    BoxLoss,
    ClassificationLoss,
    SigmoidFocalLoss,
    build_box_loss,
    build_cls_loss,
)
from ..losses.build import stock_box_loss
from ..mining import Miner, build_miner
from ..registry import configurable
from .dense_losses import DenseLosses
from .heads import build_retinanet_head, check_prior_prob, make_group_norm
from .matcher import IGNORED_CROWDS, build_anchor_matcher, match_images
from .normalizer import EMANormalizer, Normalizer, build_normalizer

CROWD_POLICIES = ("background", "ignore")
"""What `MODEL.FOCAL.ANCHOR_LABELS.CROWD` may be."""


@META_ARCH_REGISTRY.register()
class FocalRetinaNet(DenseLosses, RetinaNet):
    """
    Same interface as :class:`detectron2.modeling.RetinaNet`, but the classification loss, the box
    loss, which anchors count, what the sums are divided by, the head and the matcher are parts that
    a config names under `MODEL.FOCAL`. At the default keys it is stock RetinaNet: losses,
    gradients, state-dict keys and detections (arXiv:1708.02002).
    """

    @configurable
    def __init__(
        self,
        *,
        cls_loss: ClassificationLoss | None = None,
        box_loss: BoxLoss | None = None,
        normalizer: Normalizer | None = None,
        miner: Miner | None = None,
        loss_weight: dict[str, float] | None = None,
        ignores_crowds: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            cls_loss: the loss of all anchors that count. None: stock's focal loss, with
                ``focal_loss_alpha`` and ``focal_loss_gamma``.
            box_loss: the loss of the positive anchors. None: that of ``box_reg_loss_type``.
            normalizer: the divisor of both losses. None: stock's running mean.
            miner: the choice of the anchors that count; None: every anchor.
            loss_weight: factors of "loss_cls" and "loss_box_reg"; 1 for a name that is missing.
            ignores_crowds: background anchors inside crowd regions are ignored.
            kwargs: as in :class:`detectron2.modeling.RetinaNet`.

        Raises:
            ValueError: the loss wants softmax logits and the head gives sigmoid ones, or the other
                way round; or a name in ``loss_weight`` is unknown.
        """
        super().__init__(**kwargs)
        cls_loss = cls_loss or SigmoidFocalLoss(
            alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma
        )
        if cls_loss.softmax != getattr(self.head, "softmax", False):
            raise ValueError(
                f"{type(cls_loss).__name__} has softmax = {cls_loss.softmax}, but the head "
                f"{type(self.head).__name__} has {not cls_loss.softmax} (MODEL.FOCAL.HEAD.NAME)"
            )
        unknown = (loss_weight or {}).keys() - {"loss_cls", "loss_box_reg"}
        if unknown:
            raise ValueError(f"loss_weight is for loss_cls and loss_box_reg, got {sorted(unknown)}")
        self.cls_loss = cls_loss
        self.box_loss = box_loss or stock_box_loss(
            self.box_reg_loss_type, smooth_l1_beta=self.smooth_l1_beta
        )
        self.normalizer = normalizer or EMANormalizer()
        self.miner = miner
        self.loss_weight = loss_weight or {}
        self.ignores_crowds = ignores_crowds

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        check_prior_prob(cfg)  # stock builds a head too, and fails with less to say
        with _group_norm_of_one_channel():
            stock = super().from_config(cfg)
        return {
            **stock,
            "head": _build_head(cfg, stock["backbone"].output_shape(), stock["head"]),
            "anchor_matcher": build_anchor_matcher(cfg),
            "cls_loss": build_cls_loss(cfg),
            "box_loss": build_box_loss(cfg),
            "normalizer": build_normalizer(cfg),
            "miner": build_miner(cfg),
            "loss_weight": {
                "loss_cls": _weight(cfg, "CLS_LOSS"),
                "loss_box_reg": _weight(cfg, "BOX_LOSS"),
            },
            "ignores_crowds": _ignores_crowds(cfg),
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: tuple[list[Tensor], list[Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """
        Same interface as :meth:`RetinaNet.forward_training`, but what the head says stays where it
        wrote it.
        """
        logits, deltas = predictions
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(
            anchors,
            [view_as_anchors(x, self.num_classes) for x in logits],
            gt_labels,
            [view_as_anchors(x, 4) for x in deltas],
            gt_boxes,
        )

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """
        Same interface as :meth:`RetinaNet.label_anchors`, but an instance with a negative class is
        a crowd region: no anchor is matched with it, and, where crowds are ignored, background
        anchors inside it are.
        """
        all_anchors = Boxes.cat(anchors)
        gt_labels, gt_boxes = [], []
        for match in match_images(self.anchor_matcher, all_anchors, gt_instances):
            classes = match.classes
            labels = classes.masked_fill(match.labels == 0, self.num_classes)
            labels.masked_fill_(match.labels == -1, -1)
            # Without objects all is background, whatever label the lowest IoU has
            labels.masked_fill_(classes < 0, self.num_classes)
            if self.ignores_crowds:
                IGNORED_CROWDS.apply_(
                    labels, all_anchors, match.crowds, background=self.num_classes
                )
            gt_labels.append(labels)
            gt_boxes.append(match.boxes)
        return gt_labels, gt_boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """
        Same interface as :meth:`RetinaNet.losses`, but with the injected parts.

        Args:
            anchors: one for each level, Hi * Wi * A boxes.
            pred_logits: one for each level, (N, Hi * Wi * A, K), or (N, Hi, Wi, A, K) of any
                strides.
            gt_labels: one for each image, (R,), in {-1 (ignored), 0..K-1, K (background)}.
            pred_anchor_deltas: the same with 4 for K.
            gt_boxes: one for each image, (R, 4), of use where the label is 0..K-1.

        Returns:
            "loss_cls" and "loss_box_reg", float32 scalars.
        """
        result = self.dense_losses(
            anchors, pred_logits, torch.stack(gt_labels), pred_anchor_deltas, gt_boxes
        )
        num_images = len(result.num_pos)
        storage = get_event_storage()
        storage.put_scalar("num_pos_anchors", result.num_pos.sum().item() / num_images)
        if self.miner is not None:
            num_kept = (result.labels >= 0).sum().item()
            storage.put_scalar("num_kept_anchors", num_kept / num_images)
        losses = {"loss_cls": result.loss_cls, "loss_box_reg": result.loss_box}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}


def view_as_anchors(output: Tensor, size: int) -> Tensor:
    """(N, A * size, Hi, Wi), as a head writes it -> (N, Hi, Wi, A, size), without a copy."""
    num_images, _, height, width = output.shape
    return output.view(num_images, -1, size, height, width).permute(0, 3, 4, 1, 2)


@contextlib.contextmanager
def _group_norm_of_one_channel() -> Iterator[None]:
    """Let the stock head of release 0.6 be built with the norm "GN", see `make_group_norm`."""
    get_norm = stock_retinanet.get_norm

    def get_any_norm(norm: Any, num_channels: int) -> nn.Module | None:
        return make_group_norm(num_channels) if norm == "GN" else get_norm(norm, num_channels)

    stock_retinanet.get_norm = get_any_norm
    try:
        yield
    finally:
        stock_retinanet.get_norm = get_norm


def _build_head(cfg: CfgNode, shapes: dict[str, Any], stock_head: nn.Module) -> nn.Module:
    """
    The configured head, with stock's initial weights wherever the two have the same, and without a
    trace in the random generator: whatever the head, all else starts as in stock at the same seed.
    """
    with torch.random.fork_rng(devices=[]):
        head = build_retinanet_head(cfg, [shapes[f] for f in cfg.MODEL.RETINANET.IN_FEATURES])
    ours = head.state_dict()
    stock = stock_head.state_dict()
    shared = [key for key in ours if key in stock and ours[key].shape == stock[key].shape]
    head.load_state_dict({**ours, **{key: stock[key] for key in shared}})
    return head


def _weight(cfg: CfgNode, node: str) -> float:
    return check_option(f"MODEL.FOCAL.{node}.WEIGHT", cfg.MODEL.FOCAL[node].WEIGHT, low=0)


def _ignores_crowds(cfg: CfgNode) -> bool:
    crowd = cfg.MODEL.FOCAL.ANCHOR_LABELS.CROWD
    check_choice("MODEL.FOCAL.ANCHOR_LABELS.CROWD", crowd, CROWD_POLICIES)
    return crowd == "ignore" or bool(cfg.MODEL.FOCAL.MINING.NAME)
