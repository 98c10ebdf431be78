"""
Fast R-CNN output layers with configurable losses.

Shape shorthand:
    R: number of RoIs of all images of the batch
    K: number of classes
    V: RoIs with an object
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_choice, check_option
from ..losses import (
    BoxLoss,
    ClassificationLoss,
    SigmoidCrossEntropyLoss,
    SoftmaxCrossEntropyLoss,
    build_box_loss,
    build_cls_loss,
    elementwise_iou,
)
from ..losses.base import sigmoid_probabilities, softmax_probabilities
from ..losses.build import stock_box_loss
from ..registry import configurable
from .config_scopes import ROI_HEADS
from .norcal import NorCal, build_norcal
from .unused_keys import warn_of_missing_options, warn_of_replaced

CLS_NORMALIZERS = ("rois", "foreground")
"""Legal values of `MODEL.FOCAL.ROI_HEADS.NORMALIZER`."""


class _Foreground(NamedTuple):
    """RoIs with an object."""

    mask: Tensor  # (R,), bool, the RoIs with an object
    deltas: Tensor  # (V, 4), predicted for the class of the object
    boxes: Tensor  # (V, 4), XYXY, the proposals
    gt_boxes: Tensor  # (V, 4), XYXY


class FocalFastRCNNOutputLayers(FastRCNNOutputLayers):
    """
    Detectron2's `FastRCNNOutputLayers` with configurable losses and an object prior pi.

        sigmoid:  b_k = -log((1 - pi) / pi)         for each class k
        softmax:  b_K = log(K * (1 - pi) / pi)      for the background

    With these biases, a new box head predicts "some object" with probability pi. The prior is that
    of arXiv:1708.02002 section 3.3. At the default keys these are the stock layers, which
    load stock checkpoints. The loss states how many columns of `cls_score` it reads, and what they
    predict. With a sigmoid loss, `cls_score` keeps its K+1 columns, and the last one is unused.

    Reported:
        none on COCO
    """

    config_keys: ClassVar[dict[str, str]] = {
        "cls_normalizer": "MODEL.FOCAL.ROI_HEADS.NORMALIZER",
        "cls_weight": "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.WEIGHT",
        "prior_prob": "MODEL.FOCAL.ROI_HEADS.PRIOR_PROB",
    }

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        cls_loss: ClassificationLoss | None = None,
        box_loss: BoxLoss | None = None,
        cls_normalizer: str = "rois",
        cls_weight: float = 1.0,
        prior_prob: float = 0.0,
        norcal: NorCal | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Initialize the layers.

        Args:
            input_shape: see Detectron2's layers.
            cls_loss: the loss of all RoIs. None: stock's own.
            box_loss: the loss of the RoIs with an object. None: that of ``box_reg_loss_type``.
            cls_normalizer: the divisor of ``cls_loss``: the number of "rois", as in stock, or of
                RoIs with an object, "foreground"; 1 if there are none.
            cls_weight: factor of the classification loss, >= 0.
            prior_prob: pi, in (0, 1). 0: the biases are 0, as in stock.
            norcal: calibrates the predicted probabilities of a softmax loss; None: off.
            kwargs: see Detectron2's layers.

        Raises:
            ValueError: an option is outside its legal range, and the message names its full key; or
                there are two classification losses, ``cls_loss`` and that of ``use_sigmoid_ce``; or
                "foreground" is combined with stock's own loss, which is a mean over RoIs; or
                ``norcal`` is combined with a loss that is no softmax loss.
        """
        self._check_options(cls_normalizer, cls_weight, prior_prob)
        super().__init__(input_shape, **kwargs)
        stock_sigmoid = getattr(self, "use_sigmoid_ce", False)  # absent in release 0.6
        if cls_loss is not None and stock_sigmoid:
            raise ValueError(
                "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE and MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME select "
                "two classification losses: choose one"
            )
        if cls_loss is None and cls_normalizer != "rois":
            raise ValueError(
                f"{self.config_keys['cls_normalizer']} = {cls_normalizer!r} requires a loss in "
                "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME: stock's own is a mean over RoIs"
            )
        self.cls_loss = cls_loss
        self.box_loss = box_loss or stock_box_loss(
            self.box_reg_loss_type, smooth_l1_beta=self.smooth_l1_beta
        )
        self.cls_normalizer = cls_normalizer
        self.softmax = not stock_sigmoid if cls_loss is None else cls_loss.softmax
        self.num_columns = self.num_classes + self.softmax
        if cls_loss is not None:
            self.num_columns = cls_loss.num_columns(self.num_classes)
        if self.num_columns > self.cls_score.out_features:
            self.cls_score = nn.Linear(self.cls_score.in_features, self.num_columns)
            nn.init.normal_(self.cls_score.weight, std=0.01)
            nn.init.zeros_(self.cls_score.bias)
        self.loss_weight = {
            **self.loss_weight,
            "loss_cls": self.loss_weight.get("loss_cls", 1.0) * cls_weight,
        }
        if prior_prob:
            self._init_prior(prior_prob)
        if norcal is not None and not self.softmax:
            raise ValueError(f"{norcal.config_keys['gamma']} > 0 requires a softmax loss")
        self.norcal = norcal

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        warn_of_replaced(
            cfg, {"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "MODEL.FOCAL.ROI_HEADS.BOX_LOSS.NAME"}
        )
        box_loss = build_box_loss(cfg, ROI_HEADS)
        warn_of_missing_options(
            cfg,
            box_loss,
            {"MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": "MODEL.FOCAL.ROI_HEADS.BOX_LOSS.NAME"},
        )
        named = ROI_HEADS.read(cfg, "MODEL.FOCAL.CLS_LOSS.NAME")
        return {
            **super().from_config(cfg, input_shape),
            **_federated_options(cfg),
            "norcal": build_norcal(cfg),
            "cls_loss": build_cls_loss(cfg, ROI_HEADS) if named else None,
            "box_loss": box_loss,
            "cls_normalizer": cfg.MODEL.FOCAL.ROI_HEADS.NORMALIZER,
            "cls_weight": cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.WEIGHT,
            "prior_prob": cfg.MODEL.FOCAL.ROI_HEADS.PRIOR_PROB,
        }

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """Compute the losses like Detectron2's method, but with the injected losses."""
        if self.cls_loss is None:
            if getattr(self, "use_fed_loss", False) and not self.fed_loss_cls_weights.any():
                raise ValueError(
                    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS requires one number of images for each class "
                    "in MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS"
                )
            return super().losses(predictions, proposals)
        scores, pred_deltas = predictions
        logits = self._cls_logits(scores)
        if self.num_columns == self.num_classes:
            # The prediction is the best class if its p > .5, and background otherwise.
            of_classes = self.cls_loss.sigmoid_logits(logits.detach())
            decisions = F.pad(of_classes, (0, 1), value=torch.finfo(of_classes.dtype).tiny)
        else:
            decisions = self.cls_loss.probabilities(logits.detach())
        # For the statistics and the box loss; the classification loss is replaced below.
        losses = super().losses((decisions, pred_deltas), proposals)
        boxes, gt_boxes, gt_classes = _boxes_and_classes(predictions, proposals)
        quality = None
        if self.cls_loss.needs_quality:
            quality = self._quality(self._foreground(boxes, gt_boxes, pred_deltas, gt_classes))
        loss = self.cls_loss(logits, gt_classes, quality=quality)
        if not self.cls_loss.own_normalizer:
            of_objects = self.cls_normalizer == "foreground"
            counted = self._is_object(gt_classes) if of_objects else torch.ones_like(gt_classes)
            loss = loss / counted.sum().clamp(min=1)
        return {**losses, "loss_cls": loss * self.loss_weight["loss_cls"]}

    @torch.no_grad()
    def losses_per_roi(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """
        Compute the undivided losses of each RoI, for mining to rank by.

        The losses and their weights are those of :meth:`losses`. The state of a loss does not
        change. If ``cls_loss`` is None, the loss is the cross entropy of all classes, even where
        the federated loss would sample some.

        Args:
            predictions, proposals: see :meth:`losses`.

        Returns:
            "loss_cls" and "loss_box_reg", float32 (R,); the latter is 0 for RoIs without an object.
            "loss_cls" and "loss_box_reg", float32 (R,); the latter 0 where there is no object.
        """
        scores, pred_deltas = predictions
        boxes, gt_boxes, gt_classes = _boxes_and_classes(predictions, proposals)
        foreground = self._foreground(boxes, gt_boxes, pred_deltas, gt_classes)
        cls_loss = self._loss_of_rows()
        quality = self._quality(foreground) if cls_loss.needs_quality else None
        per_roi = cls_loss.per_anchor(self._cls_logits(scores), gt_classes, quality=quality)
        per_box = self.box_loss.per_box(*self._box_pairs(foreground))
        return {
            "loss_cls": per_roi * self.loss_weight["loss_cls"],
            "loss_box_reg": torch.zeros_like(per_roi).masked_scatter(foreground.mask, per_box)
            * self.loss_weight.get("loss_box_reg", 1.0),
        }

    def box_reg_loss(
        self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor
    ) -> Tensor:
        """Compute the box loss like Detectron2's method, but with the injected loss."""
        foreground = self._foreground(proposal_boxes, gt_boxes, pred_deltas, gt_classes)
        loss = self.box_loss(*self._box_pairs(foreground))
        return loss if self.box_loss.own_normalizer else loss / max(len(gt_classes), 1)

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> list[Tensor]:
        """
        Predict the probabilities like Detectron2's method, but as the loss defines them.

        With a sigmoid loss, the last column is the probability of none of the K classes.
        """
        logits = self._cls_logits(predictions[0])
        # not len(): a trace would keep its int for every later image
        num_rois = [p.__len__() for p in proposals]
        if self.norcal is not None:
            logits = self.norcal(logits)
        if self.cls_loss is not None:
            probs = self.cls_loss.probabilities(logits)
        elif self.softmax:  # not super(): TorchScript does not support it
            probs = softmax_probabilities(logits)
        else:
            probs = sigmoid_probabilities(logits)
        return probs.split(num_rois, dim=0)

    def _check_options(self, cls_normalizer: str, cls_weight: float, prior_prob: float) -> None:
        # Named here, and in full: Detectron2's builder does not know the key of an argument.
        keys = self.config_keys
        check_choice(keys["cls_normalizer"], cls_normalizer, CLS_NORMALIZERS)
        check_option(keys["cls_weight"], cls_weight, low=0)
        check_option(keys["prior_prob"], prior_prob, low=0, high=1, open_high=True)

    def _init_prior(self, prior_prob: float) -> None:
        biases = self._loss_of_rows().prior_biases(self.num_classes, prior_prob)
        with torch.no_grad():
            self.cls_score.bias[: self.num_columns] = torch.tensor(biases)

    def _loss_of_rows(self) -> ClassificationLoss:
        """Return the loss, or an equivalent of stock's own with a value for each RoI."""
        if self.cls_loss is not None:
            return self.cls_loss
        return SoftmaxCrossEntropyLoss() if self.softmax else SigmoidCrossEntropyLoss()

    def _cls_logits(self, scores: Tensor) -> Tensor:
        """Return the columns that the loss reads; the same tensor if it reads all."""
        if self.num_columns == self.cls_score.out_features:
            return scores  # a slice of all columns would add to the exported graph
        return scores[:, : self.num_columns]

    def _is_object(self, gt_classes: Tensor) -> Tensor:
        return (gt_classes >= 0) & (gt_classes < self.num_classes)

    def _foreground(
        self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor
    ) -> _Foreground:
        mask = self._is_object(gt_classes)
        deltas = pred_deltas[mask]
        if pred_deltas.shape[1] != 4:  # (R, K * 4): not class-agnostic
            of_class = gt_classes[mask].view(-1, 1, 1).expand(-1, 1, 4)
            deltas = deltas.view(-1, self.num_classes, 4).gather(1, of_class).squeeze(1)
        return _Foreground(mask, deltas, proposal_boxes[mask], gt_boxes[mask])

    def _box_pairs(self, foreground: _Foreground) -> tuple[Tensor, Tensor]:
        """Return predictions and targets, (V, 4): deltas, or boxes if the loss requires boxes."""
        _, deltas, boxes, gt_boxes = foreground
        if self.box_loss.on_boxes:
            return self.box2box_transform.apply_deltas(deltas, boxes), gt_boxes
        return deltas, self.box2box_transform.get_deltas(boxes, gt_boxes)

    @torch.no_grad()
    def _quality(self, foreground: _Foreground) -> Tensor:
        """Return (R,), the IoU of each decoded box with its object, or 0 without an object."""
        mask, deltas, boxes, gt_boxes = foreground
        iou = elementwise_iou(self.box2box_transform.apply_deltas(deltas, boxes), gt_boxes)
        return torch.zeros_like(mask, dtype=iou.dtype).masked_scatter(mask, iou)


def _federated_options(cfg: CfgNode) -> dict[str, Any]:
    """
    Return the weights of the classes in Detectron2's federated loss, if it is on.

    Detectron2 reads the images of each class in the metadata of a dataset, which only LVIS has.
    Here a key replaces them. Without either, the weights are 0, so that the layers can be built but
    not trained.
    """
    box_head = cfg.MODEL.ROI_BOX_HEAD
    if not getattr(box_head, "USE_FED_LOSS", False):  # absent in release 0.6
        return {}
    images = cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS
    if not images:
        metadata = [MetadataCatalog.get(name) for name in cfg.DATASETS.TRAIN]
        if metadata and all(hasattr(x, "class_image_count") for x in metadata):
            return {}
        images = [0] * cfg.MODEL.ROI_HEADS.NUM_CLASSES
    weights = torch.tensor(images, dtype=torch.float32) ** box_head.FED_LOSS_FREQ_WEIGHT_POWER
    return {"get_fed_loss_cls_weights": lambda: weights}


def without_federated_loss(cfg: CfgNode) -> CfgNode:
    """Return a config with which Detectron2's own layers need no metadata of a dataset."""
    if not getattr(cfg.MODEL.ROI_BOX_HEAD, "USE_FED_LOSS", False):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = False
    return cfg


def _boxes_and_classes(
    predictions: tuple[Tensor, Tensor], proposals: list[Instances]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the boxes of the RoIs and of their objects, both (R, 4), and the labels (R,)."""
    if not proposals:
        no_boxes = predictions[1].new_zeros(0, 4)
        return no_boxes, no_boxes, torch.zeros(0, dtype=torch.int64, device=no_boxes.device)
    # The RoIs of an image without objects have no gt_boxes, which are never read.
    gt_boxes = [p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes for p in proposals]
    return (
        cat([p.proposal_boxes.tensor for p in proposals]),
        cat([boxes.tensor for boxes in gt_boxes]),
        cat([p.gt_classes for p in proposals]),
    )
