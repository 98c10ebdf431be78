"""
Region proposal network with configurable losses, sampling, matching and normalizer.

The recipes of three code bases are presets of its keys.

Shape shorthand:
    N: number of images
    Hi, Wi: height and width of feature level i
    A: anchors per location
    R: anchors per image over all levels, the sum of Hi * Wi * A
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage, get_event_storage, has_event_storage
from torch import Tensor

from ..checks import check_choice, check_option
from ..losses import (
    BoxLoss,
    ClassificationLoss,
    SigmoidCrossEntropyLoss,
    build_box_loss,
    build_cls_loss,
)
from ..losses.base import require_decoder, require_dense_columns
from ..losses.build import stock_box_loss
from ..mining import MINER_REGISTRY, Miner, build_miner
from ..registry import configurable
from . import config_scopes
from .assigners import AnchorGrid, Assigner, build_assigner
from .balance import Balance, FixedBalance, build_balance, features_shared_by
from .dense_losses import DenseLossMixin, box_weighting_of
from .dense_targets import DenseTargets
from .matcher import CROWD_RULES, CrowdRule, Match, build_anchor_matcher, match_images
from .normalizer import (
    RPN_NORMALIZERS,
    Normalizer,
    SampleSizeNormalizer,
    build_normalizer,
)
from .unused_keys import warn_of_missing_options, warn_of_replaced

_STOCK: Mapping[str, Any] = {
    "CLS_LOSS.NAME": "SigmoidCrossEntropyLoss",
    "BOX_LOSS.NAME": "",  # that of MODEL.RPN.BBOX_REG_LOSS_TYPE
    "BOX_LOSS.HUBER_DELTA": 1 / 9,
    "TARGET_STD": (),  # 1 / MODEL.RPN.BBOX_REG_WEIGHTS
    "NORMALIZER": "batch_size",
    "LOW_QUALITY": "on",
    "MATCHED": "all",
    "CROWD": "background",
    "MINING.NAME": "random",
    "PRECISION_RECALL": False,
}

STYLES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "detectron2": _STOCK,
        "tensorpack": {
            **_STOCK,
            "BOX_LOSS.NAME": "HuberLoss",  # its delta is 1/9
            "LOW_QUALITY": "clobber",
            "MATCHED": "inside",
            "CROWD": "tensorpack",
            "PRECISION_RECALL": True,
        },
        "matterport": {
            **_STOCK,
            "CLS_LOSS.NAME": "SoftmaxCrossEntropyLoss",
            "BOX_LOSS.NAME": "HuberLoss",
            "BOX_LOSS.HUBER_DELTA": 1.0,  # smooth L1 with its break at 1
            "TARGET_STD": (0.1, 0.1, 0.2, 0.2),
            "NORMALIZER": "mean",
            "CROWD": "matterport",
        },
    }
)
"""
Value of each key of `MODEL.FOCAL.RPN` that is empty or None, for each `MODEL.FOCAL.RPN.STYLE`.
"""

MATCHED = ("all", "inside")
"""Legal values of `MODEL.FOCAL.RPN.MATCHED`."""

SAMPLING = ("random", "all")
"""Legal values of `MODEL.FOCAL.RPN.MINING.NAME`, besides the name of a miner."""

_REPLACED = {
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": "MODEL.FOCAL.RPN.BOX_LOSS.NAME",
    "MODEL.RPN.BBOX_REG_WEIGHTS": "MODEL.FOCAL.RPN.TARGET_STD",
    "MODEL.RPN.POSITIVE_FRACTION": "MODEL.FOCAL.RPN.MINING.NAME",
}

METRIC_THRESHOLDS = (0.5, 0.2, 0.1)


@PROPOSAL_GENERATOR_REGISTRY.register()
class FocalRPN(DenseLossMixin, RPN):
    """
    Detectron2's `RPN` with configurable losses, normalizer, matching and sampling.

    The keys are in `MODEL.FOCAL.RPN`. At the default keys it equals the stock RPN in losses,
    gradients, state-dict keys and proposals (arXiv:1506.01497 section 3.1).

    For a loss, an anchor has one class, "object", with label 0. The background has label 1. A
    softmax loss receives the logits [s, 0], so that softmax([s, 0]) = [p, 1 - p] with
    p = sigmoid(s).

    In training it logs the stock metrics, `rpn/loc_to_cls_ratio`, the weighted box loss over the
    weighted objectness loss, and `rpn/num_objects_without_anchor`, the objects per image without a
    positive anchor before the sampling.

    Note:
        An object that overlaps no anchor makes no anchor positive, see
        :class:`~focal_plugin.modeling.matcher.AnchorMatcher`. In the stock RPN, it makes every
        anchor positive that overlaps no object.

    Reported:
        none on COCO for the RPN alone
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
        sampling: str | Miner = "random",
        matched: str = "all",
        crowd_rule: CrowdRule | None = None,
        logs_precision_recall: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Initialize the RPN.

        Args:
            cls_loss: the objectness loss of all anchors that are trained on. None: cross entropy.
            box_loss: the loss of the anchors with an object. None: that of ``box_reg_loss_type``.
            box_weighted_by: the weight of each box: "" (1), "score" or "iou".
            normalizer: the divisor of both losses. None: ``batch_size_per_image`` times the number
                of images, as in stock.
            balance: the balance between both losses. None: their constant weights alone.
            assigner: the rule that assigns anchors to objects. None: that of ``anchor_matcher``.
            sampling: the labeled anchors to train on: "random", drawn as in stock, "all", or those
                that a miner keeps.
            matched: the anchors to match with objects: "all", or those "inside" the image. All
                others are then ignored.
            crowd_rule: the anchors that crowd regions exclude; None: none.
            logs_precision_recall: if True, log precision and recall of the objectness per level.
            kwargs: see Detectron2's RPN. `batch_size_per_image` and `positive_fraction` are used by
                its random sampling.

        Raises:
            ValueError: ``sampling`` or ``matched`` has another value, or ``assigner`` needs
                predictions.
        """
        super().__init__(**kwargs)
        if not isinstance(sampling, Miner):
            check_choice("sampling", sampling, SAMPLING)
        self.cls_loss = cls_loss or SigmoidCrossEntropyLoss()
        require_dense_columns(self.cls_loss)
        require_decoder(self.cls_loss, self.rpn_head)
        self.box_loss = box_loss or stock_box_loss(
            self.box_reg_loss_type, smooth_l1_beta=self.smooth_l1_beta
        )
        self.normalizer = normalizer or SampleSizeNormalizer(
            batch_size_per_image=self.batch_size_per_image
        )
        self.box_weighted_by = box_weighted_by
        self.balance = balance or FixedBalance()
        self.shared_features = features_shared_by(self.rpn_head, self.balance)
        if assigner is not None and assigner.needs_predictions:
            raise ValueError(
                f"{type(assigner).__name__} needs predictions, which the labels of an RPN do not "
                "depend on (MODEL.FOCAL.RPN.ASSIGNER)"
            )
        self.assigner = assigner
        self.miner = sampling if isinstance(sampling, Miner) else None
        self.reweighting = None  # prime samples are those of detections
        self.carl = None
        self.check_parts()
        self.samples = sampling == "random"
        self.matches_inside_only = check_choice("matched", matched, MATCHED) == "inside"
        self.crowd_rule = crowd_rule
        self.logs_precision_recall = logs_precision_recall

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        cfg = with_style(cfg)
        warn_of_replaced(cfg, _REPLACED)
        rpn = cfg.MODEL.FOCAL.RPN
        ret = super().from_config(cfg, input_shape)
        for loss, node in {"loss_rpn_cls": "CLS_LOSS", "loss_rpn_loc": "BOX_LOSS"}.items():
            key = f"MODEL.FOCAL.RPN.{node}.WEIGHT"
            ret["loss_weight"][loss] *= check_option(key, rpn[node].WEIGHT, low=0)
        box_loss = build_box_loss(cfg, config_scopes.RPN)
        warn_of_missing_options(
            cfg, box_loss, {"MODEL.RPN.SMOOTH_L1_BETA": "MODEL.FOCAL.RPN.BOX_LOSS.NAME"}
        )
        if rpn.TARGET_STD:
            ret["box2box_transform"] = transform_of_std(rpn.TARGET_STD)
        return {
            **ret,
            "anchor_matcher": build_anchor_matcher(cfg, config_scopes.RPN),
            "cls_loss": build_cls_loss(cfg, config_scopes.RPN),
            "box_loss": box_loss,
            "box_weighted_by": box_weighting_of(cfg, config_scopes.RPN),
            "normalizer": build_normalizer(cfg, RPN_NORMALIZERS, config_scopes.RPN),
            "balance": build_balance(cfg, config_scopes.RPN),
            "assigner": build_assigner(cfg, config_scopes.RPN),
            "sampling": sampling_of(cfg),
            "matched": check_choice("MODEL.FOCAL.RPN.MATCHED", rpn.MATCHED, MATCHED),
            "crowd_rule": crowd_rule_of(cfg),
            "logs_precision_recall": check_choice(
                "MODEL.FOCAL.RPN.PRECISION_RECALL", rpn.PRECISION_RECALL, (True, False)
            ),
        }

    @torch.jit.unused
    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """
        Label and sample the anchors, see :meth:`RPN.label_and_sample_anchors`.

        An instance with a negative class is a crowd region, and no anchor is matched with it. The
        crowd rule excludes anchors before the sampling. In a training step, it logs the number of
        objects without a positive anchor before the sampling.
        """
        all_anchors = Boxes.cat(anchors)
        gt_labels, gt_boxes, num_unassigned = [], [], []
        for match in self._match(anchors, gt_instances):
            labels = match.labels
            if self.crowd_rule is not None:
                self.crowd_rule.apply_(labels, all_anchors, match.crowds, background=0)
            num_unassigned.append(match.num_unassigned)
            gt_labels.append(self._subsample_labels(labels) if self.samples else labels)
            gt_boxes.append(match.boxes)
        if has_event_storage():
            count = torch.stack(num_unassigned).sum().item() / len(gt_instances)
            get_event_storage().put_scalar("rpn/num_objects_without_anchor", count)
        return gt_labels, gt_boxes

    def _match(self, levels: list[Boxes], gt_instances: list[Instances]) -> Iterator[Match]:
        """Match the anchors of each image, before the sampling."""
        anchors = Boxes.cat(levels)
        matches: Iterable[Match]
        if self.matches_inside_only:
            matches = (self._match_inside(levels, instances) for instances in gt_instances)
        else:
            matches = self._match_all(levels, gt_instances)
        for match, instances in zip(matches, gt_instances, strict=True):
            if self.anchor_boundary_thresh >= 0:
                inside = anchors.inside_box(
                    instances.image_size,
                    # Detectron2 declares it a float in RPN and an int in Boxes
                    self.anchor_boundary_thresh,  # type: ignore[arg-type]
                )
                match.labels.masked_fill_(~inside, -1)
            yield match

    def _match_all(self, levels: list[Boxes], gt_instances: list[Instances]) -> Iterable[Match]:
        """Match all anchors of each image."""
        if self.assigner is None:
            return match_images(self.anchor_matcher, Boxes.cat(levels), gt_instances)
        return self.assigner.match(AnchorGrid.of(levels, self.anchor_generator), gt_instances)

    def _match_inside(self, levels: list[Boxes], instances: Instances) -> Match:
        """Match the anchors inside the image. Anchors outside have no object and are ignored."""
        outside = [~_inside_image(anchors, instances.image_size) for anchors in levels]
        # A NaN box has no overlap, so anchors outside are no object's best anchors
        nowhere = [
            Boxes(anchors.tensor.masked_fill(mask.unsqueeze(1), float("nan")))
            for anchors, mask in zip(levels, outside, strict=True)
        ]
        (match,) = self._match_all(nowhere, [instances])
        match.labels.masked_fill_(torch.cat(outside), -1)
        match.idxs.masked_fill_(torch.cat(outside), len(match.objects))
        return match

    @torch.jit.unused
    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """
        Compute the losses with the injected components, see :meth:`RPN.losses`.

        Args:
            anchors: one per level, Hi * Wi * A boxes.
            pred_objectness_logits: one per level, (N, Hi * Wi * A).
            gt_labels: one per image, (R,), in {-1 (ignored), 0 (background), 1 (object)}.
            pred_anchor_deltas: one per level, (N, Hi * Wi * A, 4).
            gt_boxes: one per image, (R, 4), used where the label is 1.

        Returns:
            "loss_rpn_cls" and "loss_rpn_loc", float32 scalars.
        """
        objectness = torch.stack(gt_labels).long()
        result = self.dense_losses(
            anchors,
            [x.unsqueeze(-1) for x in pred_objectness_logits],
            DenseTargets(torch.where(objectness < 0, objectness, 1 - objectness), gt_boxes),
            pred_anchor_deltas,
            log_as="rpn/balance",
        )
        losses = {"loss_rpn_cls": result.loss_cls, "loss_rpn_loc": result.loss_box}
        losses = {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}
        self._log(losses, pred_objectness_logits, result.labels)
        return losses

    @torch.no_grad()
    def _log(self, losses: dict[str, Tensor], logits: list[Tensor], labels: Tensor) -> None:
        """
        Log the numbers of anchors, the ratio of the losses, and precision and recall if enabled.

        Args:
            losses: weighted losses.
            logits: one per level, (N, Hi * Wi * A).
            labels: (N, R), in {-1 (not trained on), 0 (object), 1 (background)}.
        """
        storage = get_event_storage()
        num_images = len(labels)
        terms = [(labels == 0).sum(), (labels == 1).sum(), *losses.values()]
        num_pos, num_neg, loss_cls, loss_loc = torch.stack([x.double() for x in terms]).tolist()
        storage.put_scalar("rpn/num_pos_anchors", num_pos / num_images)
        storage.put_scalar("rpn/num_neg_anchors", num_neg / num_images)
        if loss_cls > 0:
            storage.put_scalar("rpn/loc_to_cls_ratio", loss_loc / loss_cls)
        if self.logs_precision_recall:
            sizes = [x.shape[1] for x in logits]
            of_levels = zip(self.in_features, logits, labels.split(sizes, dim=1), strict=True)
            for level, *of_level in of_levels:
                log_precision_recall(storage, f"rpn/{level}", *of_level)


def log_precision_recall(
    storage: EventStorage, prefix: str, logits: Tensor, labels: Tensor
) -> None:
    """
    Log precision and recall of the objectness over the anchors that are trained on.

    The names are those of tensorpack: `precision_th0.5`, `recall_th0.5`, and so on for .2 and .1.

        precision = objects among those above / those above
        recall    = objects among those above / objects

    A ratio with a denominator of 0 is not logged; tensorpack logs .5 for it.

    Args:
        prefix: prefix of the names.
        logits: any shape, objectness logits.
        labels: the same shape, in {-1 (not trained on), 0 (object), 1 (background)}.
    """
    probability = logits.float().sigmoid()
    is_object = labels == 0
    above = [(probability > threshold) & (labels >= 0) for threshold in METRIC_THRESHOLDS]
    masks = [is_object, *above, *(x & is_object for x in above)]
    num_objects, *counts = torch.stack([mask.sum() for mask in masks]).tolist()
    num_above, num_correct = counts[: len(above)], counts[len(above) :]
    for threshold, predicted, correct in zip(
        METRIC_THRESHOLDS, num_above, num_correct, strict=True
    ):
        if predicted:
            storage.put_scalar(f"{prefix}/precision_th{threshold}", correct / predicted)
        if num_objects:
            storage.put_scalar(f"{prefix}/recall_th{threshold}", correct / num_objects)


def with_style(cfg: CfgNode) -> CfgNode:
    """
    Return a copy of the config with the values of its RPN style.

    Each key of `MODEL.FOCAL.RPN` that is empty or None gets the value of its `STYLE`.

    Raises:
        ValueError: there is no such style.
    """
    style = STYLES[check_choice("MODEL.FOCAL.RPN.STYLE", cfg.MODEL.FOCAL.RPN.STYLE, STYLES)]
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in style.items():
        *nodes, name = key.split(".")
        node = functools.reduce(lambda node, part: node[part], nodes, cfg.MODEL.FOCAL.RPN)
        if node[name] in ("", [], (), None):
            node[name] = value
    return cfg


def crowd_rule_of(cfg: CfgNode) -> CrowdRule | None:
    """
    Return the crowd rule that `MODEL.FOCAL.RPN.{STYLE, CROWD, CROWD_THRESH}` select.

    Raises:
        ValueError: one of them has an illegal value.
    """
    rpn = with_style(cfg).MODEL.FOCAL.RPN
    rule = CROWD_RULES[check_choice("MODEL.FOCAL.RPN.CROWD", rpn.CROWD, CROWD_RULES)]
    if rpn.CROWD_THRESH is None:
        return rule
    check_option("MODEL.FOCAL.RPN.CROWD_THRESH", rpn.CROWD_THRESH, low=0, open_low=True)
    return rule and rule._replace(threshold=rpn.CROWD_THRESH)


def sampling_of(cfg: CfgNode) -> str | Miner:
    """
    Return which labeled anchors the RPN trains on: "random", "all", or a miner.

    Raises:
        ValueError: `MODEL.FOCAL.RPN.MINING` has an illegal value.
    """
    sampling: str = cfg.MODEL.FOCAL.RPN.MINING.NAME
    check_choice("MODEL.FOCAL.RPN.MINING.NAME", sampling, (*SAMPLING, *dict(MINER_REGISTRY)))
    if sampling in SAMPLING:
        return sampling
    miner = build_miner(cfg, config_scopes.RPN)
    assert miner is not None  # its name is not empty
    return miner


def transform_of_std(std: list[float]) -> Box2BoxTransform:
    """
    Return the transform whose deltas are divided by `MODEL.FOCAL.RPN.TARGET_STD`.

    Raises:
        ValueError: it is not 4 numbers > 0.
    """
    key = "MODEL.FOCAL.RPN.TARGET_STD"
    if len(std) != 4:
        raise ValueError(f"{key} must be 4 numbers, got {std}")
    x, y, width, height = (1 / check_option(key, value, low=0, open_low=True) for value in std)
    return Box2BoxTransform(weights=(x, y, width, height))


def _inside_image(anchors: Boxes, image_size: tuple[int, int]) -> Tensor:
    """Return the mask of the anchors inside an image of (height, width), bool (R,)."""
    height, width = image_size
    x1, y1, x2, y2 = anchors.tensor.unbind(dim=1)
    return (x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height)
