"""
RetinaNet with configurable losses, mining, normalizer, head and matcher.

Shape shorthand:
    N: number of images
    Hi, Wi: height and width of feature level i
    A: anchors per location
    R: anchors per image over all levels, the sum of Hi * Wi * A
    K: number of classes
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
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
    BagLoss,
    BoxLoss,
    ClassificationLoss,
    SigmoidFocalLoss,
    build_bag_loss,
    build_box_loss,
    build_cls_loss,
)
from ..losses.base import require_decoder, require_dense_columns
from ..losses.build import stock_box_loss
from ..mining import Miner, build_miner
from ..registry import configurable
from .assigners import AnchorGrid, Assigner, DensePredictions, build_assigner
from .balance import Balance, FixedBalance, build_balance, features_shared_by
from .box_output_heads import BoxOutputHead
from .class_names import name_classes
from .dense_losses import DenseLossMixin, box_weighting_of
from .dense_targets import DenseTargets
from .heads import build_retinanet_head, check_prior_prob, make_group_norm
from .matcher import (
    IGNORED_CROWDS,
    Match,
    build_anchor_matcher,
    match_images,
    split_crowds,
)
from .normalizer import EMANormalizer, Normalizer, build_normalizer
from .prime_samples import CARLTerm, ISRPReweighting, build_carl, build_reweighting
from .unlabeled_classes import FIELD, leave_out_unlabeled
from .unused_keys import warn_of_missing_options, warn_of_replaced

logger = logging.getLogger(__name__)

CROWD_POLICIES = ("background", "ignore")
"""Legal values of `MODEL.FOCAL.ANCHOR_LABELS.CROWD`."""

_OPTIONS_OF_STOCKS_LOSS = {
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": "MODEL.FOCAL.CLS_LOSS.NAME",
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": "MODEL.FOCAL.CLS_LOSS.NAME",
}


_REPLACED_BY_BAG_LOSS = {"CLS_LOSS": "SigmoidFocalLoss", "BOX_LOSS": "", "NORMALIZER": "ema"}
"""Node of `MODEL.FOCAL` -> default of its `NAME`."""


@META_ARCH_REGISTRY.register()
class FocalRetinaNet(DenseLossMixin, RetinaNet):
    """
    RetinaNet with configurable losses, mining, normalizer, head and matcher.

    The interface is that of :class:`detectron2.modeling.RetinaNet`. The keys under `MODEL.FOCAL`
    name the components. At the default keys it equals stock RetinaNet in losses, gradients,
    state-dict keys and detections (arXiv:1708.02002).
    """

    @configurable
    def __init__(
        self,
        *,
        cls_loss: ClassificationLoss | None = None,
        box_loss: BoxLoss | None = None,
        box_weighted_by: str = "",
        normalizer: Normalizer | None = None,
        balance: Balance | None = None,
        assigner: Assigner | None = None,
        bag_loss: BagLoss | None = None,
        miner: Miner | None = None,
        reweighting: ISRPReweighting | None = None,
        carl: CARLTerm | None = None,
        loss_weight: dict[str, float] | None = None,
        ignores_crowds: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Initialize the detector.

        Args:
            cls_loss: the loss of all anchors that count. None: stock's focal loss, with
                ``focal_loss_alpha`` and ``focal_loss_gamma``.
            box_loss: the loss of the positive anchors. None: that of ``box_reg_loss_type``.
            box_weighted_by: the weight of each box: "" (1), "score", "iou" or "target".
            normalizer: the divisor of both losses. None: stock's running mean.
            balance: the balance between both losses. None: their constant weights alone.
            assigner: the rule that assigns anchors to objects. None: that of ``anchor_matcher``.
            bag_loss: the loss that replaces both losses, their divisor and the assigner. None:
                there is none.
            miner: the selection of the anchors that count; None: every anchor counts.
            reweighting: the weights of the classification loss of the positives; None: 1 each.
            carl: the box term that trains the scores; None: there is none.
            loss_weight: factors of "loss_cls" and "loss_box_reg"; 1 for a missing name.
            ignores_crowds: if True, background anchors inside crowd regions are ignored.
            kwargs: see :class:`detectron2.modeling.RetinaNet`.

        Raises:
            ValueError: loss and head use different logits or probabilities, or a
                name in ``loss_weight`` is unknown; or ``miner`` cannot rank anchors by a loss that
                is a sum only; or ``assigner`` or ``bag_loss`` does not work with another part.
        """
        super().__init__(**kwargs)
        cls_loss = cls_loss or SigmoidFocalLoss(
            alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma
        )
        require_dense_columns(cls_loss)
        if cls_loss.softmax != getattr(self.head, "softmax", False):
            raise ValueError(
                f"{type(cls_loss).__name__} has softmax = {cls_loss.softmax}, but the head "
                f"{type(self.head).__name__} has {not cls_loss.softmax} (MODEL.FOCAL.HEAD.NAME)"
            )
        require_decoder(cls_loss, self.head)
        unknown = (loss_weight or {}).keys() - {"loss_cls", "loss_box_reg"}
        if unknown:
            raise ValueError(
                f"loss_weight must have the names loss_cls and loss_box_reg, got {sorted(unknown)}"
            )
        self.cls_loss = cls_loss
        self.box_loss = box_loss or stock_box_loss(
            self.box_reg_loss_type, smooth_l1_beta=self.smooth_l1_beta
        )
        self.normalizer = normalizer or EMANormalizer()
        self.box_weighted_by = box_weighted_by
        self.balance = balance or FixedBalance()
        self.shared_features = features_shared_by(self.head, self.balance)
        self.assigner = assigner
        self.bag_loss = bag_loss
        self.miner = miner
        self.reweighting = reweighting
        self.carl = carl
        self.check_parts()
        self._check_assignment()
        self.loss_weight = loss_weight or {}
        self.ignores_crowds = ignores_crowds

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        warn_of_replaced(cfg, {"MODEL.RETINANET.BBOX_REG_LOSS_TYPE": "MODEL.FOCAL.BOX_LOSS.NAME"})
        _warn_of_parts_without_effect(cfg)
        name_classes(cfg)
        check_prior_prob(cfg)  # stock also builds a head, and fails with a less helpful message
        with _group_norm_of_one_channel():
            stock = super().from_config(cfg)
        head = _build_head(cfg, stock["backbone"].output_shape(), stock["head"])
        cls_loss = build_cls_loss(cfg)
        warn_of_missing_options(cfg, cls_loss, _OPTIONS_OF_STOCKS_LOSS)
        return {
            **stock,
            "head": head,
            "box2box_transform": getattr(head, "box2box_transform", stock["box2box_transform"]),
            "anchor_matcher": build_anchor_matcher(cfg),
            "cls_loss": cls_loss,
            "box_loss": build_box_loss(cfg),
            "box_weighted_by": box_weighting_of(cfg),
            "normalizer": build_normalizer(cfg),
            "balance": build_balance(cfg),
            "assigner": build_assigner(cfg),
            "bag_loss": build_bag_loss(cfg),
            "miner": build_miner(cfg),
            "reweighting": build_reweighting(cfg),
            "carl": build_carl(cfg),
            "loss_weight": _loss_weights(cfg),
            "ignores_crowds": ignores_crowds(cfg),
        }

    def _check_assignment(self) -> None:
        """
        Check that the parts work with the assigner, or with a loss that has no labels.

        Raises:
            ValueError: they do not.
        """
        reader = self.assigner if self.assigner and self.assigner.needs_predictions else None
        if reader is not None and self.cls_loss.softmax:
            raise ValueError(
                f"{type(reader).__name__} reads sigmoid logits, but {type(self.cls_loss).__name__} "
                "has softmax logits (MODEL.FOCAL.CLS_LOSS.NAME)"
            )
        if self.bag_loss is None:
            return
        if self.cls_loss.softmax or (
            self.cls_loss.sigmoid_logits is not ClassificationLoss.sigmoid_logits
        ):
            raise ValueError(
                f"{type(self.bag_loss).__name__} reads sigmoid logits, but the head decodes those "
                f"of {type(self.cls_loss).__name__} (MODEL.FOCAL.CLS_LOSS.NAME)"
            )
        unused = {
            "ASSIGNER.NAME": self.assigner is not None,
            "BALANCE.NAME": not isinstance(self.balance, FixedBalance),
            "BOX_LOSS.WEIGHTED_BY": bool(self.box_weighted_by),
            "CARL.WEIGHT": self.carl is not None,
            "HEAD.NAME": isinstance(self.head, BoxOutputHead),
            "MINING.NAME": self.miner is not None,
            "REWEIGHT.NAME": self.reweighting is not None,
        }
        for key in (key for key, is_set in unused.items() if is_set):
            raise ValueError(
                f"MODEL.FOCAL.{key} must have its default, because "
                f"{type(self.bag_loss).__name__} gives no label to an anchor"
            )

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: tuple[list[Tensor], list[Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """
        Compute the losses, see :meth:`RetinaNet.forward_training`.

        The predictions of the head are not copied into another layout. Classes with which an image
        is not labeled have no negatives there, see :func:`leave_out_unlabeled`.
        """
        anchors = self.anchor_generator(features)
        logits = [view_as_anchors(x, self.num_classes) for x in predictions[0]]
        box_outputs = None
        if isinstance(self.head, BoxOutputHead):
            box_outputs = [view_as_anchors(x, self.head.box_channels) for x in predictions[1]]
            deltas = [self.head.deltas_of(x) for x in box_outputs]
        else:
            deltas = [view_as_anchors(x, 4) for x in predictions[1]]
        if self.bag_loss is not None:
            return self._bag_losses(self.bag_loss, anchors, logits, deltas, gt_instances)
        head_outputs = DensePredictions(
            logits, deltas, self.box2box_transform, self.cls_loss.sigmoid_logits
        )
        targets = self.assign(anchors, gt_instances, head_outputs)
        gt_labels = list(targets.labels)
        return self.losses(
            anchors,
            leave_out_unlabeled(logits, gt_labels, gt_instances),
            gt_labels,
            deltas,
            targets.gt_boxes,
            targets=targets,
            box_outputs=box_outputs,
        )

    def _bag_losses(
        self,
        bag_loss: BagLoss,
        anchors: list[Boxes],
        logits: list[Tensor],
        deltas: list[Tensor],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Compute the losses without labels of anchors, see :meth:`forward_training`."""
        if any(instances.has(FIELD) for instances in gt_instances):
            raise ValueError(
                f"{type(bag_loss).__name__} requires images that are labeled with every class; set "
                "MODEL.FOCAL.ANCHOR_LABELS.UNLABELED to 'background'"
            )
        all_anchors = Boxes.cat(anchors)
        ignored = torch.zeros(
            len(gt_instances), len(all_anchors), dtype=torch.int8, device=all_anchors.device
        )
        objects, crowds = zip(*map(split_crowds, gt_instances), strict=True)
        if self.ignores_crowds:
            for labels, regions in zip(ignored, crowds, strict=True):
                IGNORED_CROWDS.apply_(labels, all_anchors, regions, background=0)
        losses = bag_loss(
            logits,
            deltas,
            all_anchors.tensor,
            [x.gt_boxes.tensor for x in objects],
            [x.gt_classes for x in objects],
            transform=self.box2box_transform,
            ignored=ignored < 0,
        )
        assert isinstance(losses, dict)
        return losses

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label the anchors, see :meth:`RetinaNet.label_anchors` and :meth:`assign`."""
        targets = self.assign(anchors, gt_instances)
        return list(targets.labels), targets.gt_boxes

    @torch.no_grad()
    def assign(
        self,
        anchors: list[Boxes],
        gt_instances: list[Instances],
        predictions: DensePredictions | None = None,
    ) -> DenseTargets:
        """
        Give each anchor its target.

        An instance with a negative class is a crowd region, and no anchor is matched with it. If
        crowds are ignored, so are the background anchors inside them.

        Args:
            anchors: one per level, Hi * Wi * A boxes.
            gt_instances: one per image, with gt_boxes and gt_classes.
            predictions: the predictions for the same images, for an assigner that needs them.

        Raises:
            ValueError: the assigner needs predictions, but there are none.
        """
        all_anchors = Boxes.cat(anchors)
        matches: Iterable[Match]
        if self.assigner is None:
            matches = match_images(self.anchor_matcher, all_anchors, gt_instances)
        else:
            grid = AnchorGrid.of(anchors, self.anchor_generator)
            matches = self.assigner.match(grid, gt_instances, predictions)
        gt_labels, gt_boxes, objects, soft_targets, num_unassigned = [], [], [], [], []
        for match in matches:
            classes = match.classes
            labels = classes.masked_fill(match.labels == 0, self.num_classes)
            labels.masked_fill_(match.labels == -1, -1)
            # Without objects every anchor is background, whatever the label of the lowest IoU
            labels.masked_fill_(classes < 0, self.num_classes)
            if self.ignores_crowds:
                IGNORED_CROWDS.apply_(
                    labels, all_anchors, match.crowds, background=self.num_classes
                )
            gt_labels.append(labels)
            gt_boxes.append(match.boxes)
            objects.append(match.idxs)
            num_unassigned.append(match.num_unassigned)
            if match.target is not None:
                soft_targets.append(match.target)
        target = torch.stack(soft_targets) if soft_targets else None
        return DenseTargets(
            torch.stack(gt_labels),
            gt_boxes,
            torch.stack(objects),
            quality=target,
            weight=target,
            num_unassigned=torch.stack(num_unassigned),
        )

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
        *,
        targets: DenseTargets | None = None,
        box_outputs: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """
        Compute the losses with the injected components, see :meth:`RetinaNet.losses`.

        Args:
            anchors: one per level, Hi * Wi * A boxes.
            pred_logits: one per level, (N, Hi * Wi * A, K), or (N, Hi, Wi, A, K) of any strides.
            gt_labels: one per image, (R,), in {-1 (ignored), 0..K-1, K (background)}.
            pred_anchor_deltas: the same with 4 for K.
            gt_boxes: one per image, (R, 4), used where the label is 0..K-1.
            targets: the same labels and boxes, with all else that the assigner gives. None: it
                gives nothing else.

            box_outputs: one per level, (N, Hi, Wi, A, D), of a head that predicts more than deltas.

        Returns:
            "loss_cls", "loss_box_reg" and all others by name, float32 scalars.
        """
        targets = targets or DenseTargets(torch.stack(gt_labels), gt_boxes)
        result = self.dense_losses(
            anchors, pred_logits, targets, pred_anchor_deltas, box_outputs=box_outputs
        )
        logged = {"num_pos_anchors": result.num_pos.sum()}
        if targets.num_unassigned is not None:
            logged["num_objects_without_anchor"] = targets.num_unassigned.sum()
        if self.miner is not None:
            logged["num_kept_anchors"] = (result.labels >= 0).sum()
        counts = torch.stack(list(logged.values())).tolist()  # one synchronization with a GPU
        for name, count in zip(logged, counts, strict=True):
            get_event_storage().put_scalar(name, count / len(result.num_pos))
        losses = {"loss_cls": result.loss_cls, "loss_box_reg": result.loss_box, **result.auxiliary}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}


def view_as_anchors(output: Tensor, size: int) -> Tensor:
    """View the output of a head, (N, A * size, Hi, Wi), as (N, Hi, Wi, A, size), without a copy."""
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
    Build the configured head with stock's initial weights wherever the two share a weight.

    The biases of the classes are the prior, which depends on the loss.

    The random generator stays unchanged. Whatever the head, all other layers start as in stock at
    the same seed.
    """
    with torch.random.fork_rng(devices=[]):
        head = build_retinanet_head(cfg, [shapes[f] for f in cfg.MODEL.RETINANET.IN_FEATURES])
    ours = head.state_dict()
    stock = stock_head.state_dict()
    stock.pop("cls_score.bias")
    shared = [key for key in ours if key in stock and ours[key].shape == stock[key].shape]
    head.load_state_dict({**ours, **{key: stock[key] for key in shared}})
    return head


def _warn_of_parts_without_effect(cfg: CfgNode) -> None:
    """Log each chosen part that a loss of bags replaces. An arm may name it for any base."""
    focal = cfg.MODEL.FOCAL
    if focal.BAG_LOSS.NAME:
        for node, default in _REPLACED_BY_BAG_LOSS.items():
            name = focal[node].NAME
            if name != default:
                logger.warning(
                    f"MODEL.FOCAL.{node}.NAME = {name!r} has no effect with "
                    f"MODEL.FOCAL.BAG_LOSS.NAME = {focal.BAG_LOSS.NAME!r}"
                )


def _loss_weights(cfg: CfgNode) -> dict[str, float]:
    """Return the factors of both losses; a loss of bags has weights of its own."""
    focal = cfg.MODEL.FOCAL
    if focal.BAG_LOSS.NAME:
        return {}
    return {
        name: check_option(f"MODEL.FOCAL.{node}.WEIGHT", focal[node].WEIGHT, low=0)
        for name, node in (("loss_cls", "CLS_LOSS"), ("loss_box_reg", "BOX_LOSS"))
    }


def ignores_crowds(cfg: CfgNode) -> bool:
    """
    Return True if a RetinaNet of this config ignores the anchors in crowd regions.

    Raises:
        ValueError: `MODEL.FOCAL.ANCHOR_LABELS.CROWD` has an illegal value.
    """
    crowd = cfg.MODEL.FOCAL.ANCHOR_LABELS.CROWD
    check_choice("MODEL.FOCAL.ANCHOR_LABELS.CROWD", crowd, CROWD_POLICIES)
    return crowd == "ignore" or bool(cfg.MODEL.FOCAL.MINING.NAME)
