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
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.fast_rcnn import _log_classification_stats
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
from .balance import Balance, FixedBalance, SharedFeatures, build_balance
from .box_weights import check_box_weights, divisor_of_weights, scores_of
from .config_scopes import ROI_HEADS
from .federated import federated_options, require_federated_weights
from .norcal import NorCal, build_norcal
from .prime_samples import (
    CARLTerm,
    ISRPReweighting,
    build_carl,
    build_reweighting,
    check_prime_samples,
)
from .unused_keys import warn_of_missing_options, warn_of_replaced

NORMALIZERS = ("rois", "foreground")
"""Legal values of `MODEL.FOCAL.ROI_HEADS.NORMALIZER` and `BOX_NORMALIZER`."""

BOX_WEIGHTS = ("", "score", "iou")
"""Legal values of `MODEL.FOCAL.ROI_HEADS.BOX_LOSS.WEIGHTED_BY`."""


WEIGHTS = "cls_weights"
"""Field of the `Instances` of sampled RoIs, (R,): weights of their classification losses."""


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
        "box_normalizer": "MODEL.FOCAL.ROI_HEADS.BOX_NORMALIZER",
        "box_weighted_by": "MODEL.FOCAL.ROI_HEADS.BOX_LOSS.WEIGHTED_BY",
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
        box_weighted_by: str = "",
        box_normalizer: str = "rois",
        balance: Balance | None = None,
        reweighting: ISRPReweighting | None = None,
        carl: CARLTerm | None = None,
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
            box_weighted_by: the weight of each box: "" (1), "score" or "iou". The box loss is then
                divided by the sum of the weights.
            box_normalizer: the divisor of ``box_loss``, as ``cls_normalizer``.
            balance: the balance between both losses. None: their constant weights alone.
            reweighting: the weights of ``cls_loss`` of the RoIs with an object; None: 1 each.
            carl: the box term that trains the scores; None: there is none.
            cls_normalizer: the divisor of ``cls_loss``: the number of "rois", as in stock, or of
                RoIs with an object, "foreground"; 1 if there are none.
            cls_weight: factor of the classification loss, >= 0.
            prior_prob: pi, in (0, 1). 0: the biases are 0, as in stock.
            norcal: calibrates the predicted probabilities of a softmax loss; None: off.
            kwargs: see Detectron2's layers.

        Raises:
            ValueError: an option is outside its legal range, and the message names its full key; or
                there are two classification losses, ``cls_loss`` and that of ``use_sigmoid_ce``; or
                "foreground", a balance or one of the prime sample parts is combined with stock's
                own loss, which is a mean over RoIs; or the losses do not work together; or
                ``norcal`` is combined with a loss that is no softmax loss.
        """
        self._check_options(cls_normalizer, cls_weight, prior_prob, box_weighted_by, box_normalizer)
        super().__init__(input_shape, **kwargs)
        stock_sigmoid = getattr(self, "use_sigmoid_ce", False)  # absent in release 0.6
        if cls_loss is not None and stock_sigmoid:
            raise ValueError(
                "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE and MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME select "
                "two classification losses: choose one"
            )
        balance = balance or FixedBalance()
        needs_loss = {
            self.config_keys["cls_normalizer"]: cls_normalizer != "rois",
            self.config_keys["box_weighted_by"]: box_weighted_by == "score",
            "MODEL.FOCAL.ROI_HEADS.BALANCE.NAME": type(balance) is not FixedBalance,
            "MODEL.FOCAL.ROI_HEADS.REWEIGHT.NAME": reweighting is not None,
            "MODEL.FOCAL.ROI_HEADS.CARL.WEIGHT": carl is not None,
        }
        for key, needed in needs_loss.items():
            if cls_loss is None and needed:
                raise ValueError(
                    f"{key} requires a loss in MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME: stock's own is "
                    "a mean over RoIs, with its weight"
                )
        self.cls_loss = cls_loss
        self.box_loss = box_loss or stock_box_loss(
            self.box_reg_loss_type, smooth_l1_beta=self.smooth_l1_beta
        )
        check_box_weights(box_weighted_by, cls_loss, self.box_loss)
        if cls_loss is not None:
            check_prime_samples(cls_loss, self.box_loss, reweighting, carl)
        self.reweighting = reweighting
        self.carl = carl
        self.box_weighted_by = box_weighted_by
        self.box_normalizer = box_normalizer
        self.balance = balance
        self.shared_features: SharedFeatures | None = None
        if balance.reads_gradients:
            self.shared_features = SharedFeatures(self, of_input=True)
            self.shared_features.attach(True)  # a new module is in training mode
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
        if norcal is not None and not (self.softmax and self.num_columns == self.num_classes + 1):
            raise ValueError(
                f"{norcal.config_keys['gamma']} > 0 requires a softmax loss of all classes and the "
                "background"
            )
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
            **federated_options(cfg),
            "norcal": build_norcal(cfg),
            "cls_loss": build_cls_loss(cfg, ROI_HEADS) if named else None,
            "box_loss": box_loss,
            "box_weighted_by": cfg.MODEL.FOCAL.ROI_HEADS.BOX_LOSS.WEIGHTED_BY,
            "box_normalizer": cfg.MODEL.FOCAL.ROI_HEADS.BOX_NORMALIZER,
            "balance": build_balance(cfg, ROI_HEADS),
            "reweighting": build_reweighting(cfg, ROI_HEADS),
            "carl": build_carl(cfg, ROI_HEADS),
            "cls_normalizer": cfg.MODEL.FOCAL.ROI_HEADS.NORMALIZER,
            "cls_weight": cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.WEIGHT,
            "prior_prob": cfg.MODEL.FOCAL.ROI_HEADS.PRIOR_PROB,
        }

    def train(self, mode: bool = True) -> FocalFastRCNNOutputLayers:
        """Set the mode, and record the shared features in training mode only."""
        super().train(mode)
        if self.shared_features is not None:
            self.shared_features.attach(mode)
        return self

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """Compute the losses like Detectron2's method, but with the injected losses."""
        if self.cls_loss is None:
            require_federated_weights(self)
            return super().losses(predictions, proposals)
        scores, pred_deltas = predictions
        boxes, gt_boxes, gt_classes = _boxes_and_classes(predictions, proposals)
        logits = self._cls_logits(scores)
        _log_classification_stats(self._decisions(self.cls_loss, logits.detach()), gt_classes)
        foreground = self._foreground(boxes, gt_boxes, pred_deltas, gt_classes)
        if self.cls_loss.needs_box_loss:
            loss_cls, loss_box = self._both_losses(self.cls_loss, logits, gt_classes, foreground)
        else:
            loss_cls = self._cls_loss(self.cls_loss, logits, gt_classes, foreground, proposals)
            loss_box = self._box_loss(foreground, logits)
        shared = self.shared_features.take() if self.shared_features is not None else []
        losses = dict(
            zip(
                ("loss_cls", "loss_box_reg"),
                self.balance(loss_cls, loss_box, shared=shared, log_as="roi_head/balance"),
                strict=True,
            )
        )
        if self.carl is not None:
            losses["loss_carl"] = self._carl_loss(self.carl, logits, gt_classes, foreground)
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

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
        """
        scores, pred_deltas = predictions
        boxes, gt_boxes, gt_classes = _boxes_and_classes(predictions, proposals)
        foreground = self._foreground(boxes, gt_boxes, pred_deltas, gt_classes)
        cls_loss = self._loss_of_rows()
        quality = self._quality(foreground) if cls_loss.needs_quality else None
        per_roi = cls_loss.per_anchor(self._cls_logits(scores), gt_classes, quality=quality)
        if cls_loss.own_normalizer:  # a mean over the RoIs
            per_roi = per_roi * len(per_roi)
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
        return self._box_loss(
            self._foreground(proposal_boxes, gt_boxes, pred_deltas, gt_classes), None
        )

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> list[Tensor]:
        """
        Predict the probabilities like Detectron2's method, but as the loss defines them.

        With a sigmoid loss, the last column is the probability of none of the K classes. NorCal
        calibrates the probabilities of a softmax loss.
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

    def _check_options(
        self,
        cls_normalizer: str,
        cls_weight: float,
        prior_prob: float,
        box_weighted_by: str,
        box_normalizer: str,
    ) -> None:
        # Named here, and in full: Detectron2's builder does not know the key of an argument.
        keys = self.config_keys
        check_choice(keys["box_weighted_by"], box_weighted_by, BOX_WEIGHTS)
        check_choice(keys["box_normalizer"], box_normalizer, NORMALIZERS)
        check_choice(keys["cls_normalizer"], cls_normalizer, NORMALIZERS)
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

    def _decisions(self, cls_loss: ClassificationLoss, logits: Tensor) -> Tensor:
        """Return (R, K+1), largest in the column of the predicted class, for the statistics."""
        if self.num_columns > self.num_classes:
            return cls_loss.probabilities(logits)
        # The prediction is the best class if its p > .5, and background otherwise.
        logits = cls_loss.sigmoid_logits(logits)
        return F.pad(logits, (0, 1), value=torch.finfo(logits.dtype).tiny)

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

    def _cls_loss(
        self,
        cls_loss: ClassificationLoss,
        logits: Tensor,
        gt_classes: Tensor,
        foreground: _Foreground,
        proposals: list[Instances],
    ) -> Tensor:
        """Compute the classification loss, divided by its normalizer."""
        quality = self._quality(foreground) if cls_loss.needs_quality else None
        weighted = self.reweighting is not None or _has_weights(proposals)
        if weighted:
            per_roi = cls_loss.per_anchor_of_step(logits, gt_classes, quality=quality)
            loss = (per_roi * self._cls_weights(per_roi, gt_classes, foreground, proposals)).sum()
        else:
            loss = cls_loss(logits, gt_classes, quality=quality)
        if cls_loss.own_normalizer:
            return loss
        return loss / self._divisor(self.cls_normalizer, foreground.mask)

    @torch.no_grad()
    def _cls_weights(
        self,
        per_roi: Tensor,
        gt_classes: Tensor,
        foreground: _Foreground,
        proposals: list[Instances],
    ) -> Tensor:
        """Return the weight of the classification loss of each RoI, (R,)."""
        weights = torch.ones_like(per_roi)
        if _has_weights(proposals):
            weights = cat([p.get(WEIGHTS) for p in proposals])
        if self.reweighting is None:
            return weights
        mask = foreground.mask
        objects = torch.zeros_like(gt_classes).masked_scatter(mask, _objects(foreground, proposals))
        return weights * self.reweighting(
            gt_classes, objects, self._quality(foreground), per_roi, num_classes=self.num_classes
        )

    def _carl_loss(
        self, carl: CARLTerm, logits: Tensor, gt_classes: Tensor, foreground: _Foreground
    ) -> Tensor:
        """Compute the box term that trains the scores, divided like the box loss."""
        assert self.cls_loss is not None
        mask = foreground.mask
        loss = self.box_loss.per_box(*self._box_pairs(foreground))
        if not self.box_loss.own_normalizer:
            loss = loss / self._divisor(self.box_normalizer, mask)
        return carl(self.cls_loss.probabilities(logits[mask].float()), gt_classes[mask], loss)

    def _both_losses(
        self,
        cls_loss: ClassificationLoss,
        logits: Tensor,
        gt_classes: Tensor,
        foreground: _Foreground,
    ) -> tuple[Tensor, Tensor]:
        """Compute both losses together, for a classification loss that weighs the box losses."""
        per_box = self.box_loss.per_box(*self._box_pairs(foreground))
        mask = foreground.mask
        box_loss = torch.zeros_like(mask, dtype=per_box.dtype).masked_scatter(mask, per_box)
        return cls_loss.of_both([logits], [gt_classes], box_loss=[box_loss])

    def _box_loss(self, foreground: _Foreground, logits: Tensor | None) -> Tensor:
        """
        Compute the box loss, divided by its normalizer.

        Args:
            logits: (R, K), or K+1 for a softmax loss; None if the weights do not depend on them.
        """
        pairs = self._box_pairs(foreground)
        if self.box_loss.own_normalizer:
            return self.box_loss(*pairs)
        if not self.box_weighted_by:
            return self.box_loss(*pairs) / self._divisor(self.box_normalizer, foreground.mask)
        weights = self._box_weights(foreground, logits)
        loss = (weights * self.box_loss.per_box(*pairs)).sum()
        self.box_loss.observe(*pairs)
        return loss / divisor_of_weights(weights)

    @torch.no_grad()
    def _box_weights(self, foreground: _Foreground, logits: Tensor | None) -> Tensor:
        """Return the weight of each box, float32 (V,)."""
        if self.box_weighted_by == "iou":
            return self._iou(foreground)
        assert self.cls_loss is not None
        assert logits is not None
        return scores_of(self.cls_loss, logits[foreground.mask])

    @staticmethod
    def _divisor(normalizer: str, is_object: Tensor) -> Tensor | int:
        """Return the number of RoIs, or of those with an object, at least 1."""
        if normalizer == "rois":
            return max(len(is_object), 1)
        return is_object.sum().clamp(min=1)

    @torch.no_grad()
    def _quality(self, foreground: _Foreground) -> Tensor:
        """Return (R,), the IoU of each decoded box with its object, or 0 without an object."""
        iou = self._iou(foreground)
        mask = foreground.mask
        return torch.zeros_like(mask, dtype=iou.dtype).masked_scatter(mask, iou)

    @torch.no_grad()
    def _iou(self, foreground: _Foreground) -> Tensor:
        """Return the IoU of the decoded box of each RoI with an object, (V,)."""
        _, deltas, boxes, gt_boxes = foreground
        return elementwise_iou(self.box2box_transform.apply_deltas(deltas, boxes), gt_boxes)


def _has_weights(proposals: list[Instances]) -> bool:
    return bool(proposals) and proposals[0].has(WEIGHTS)


def _objects(foreground: _Foreground, proposals: list[Instances]) -> Tensor:
    """
    Assign a number to the object of each RoI of all images, int64 (V,).

    The matcher gives a RoI the first of several equal boxes. So two RoIs of an image have the same
    object if they have the same box of an object.
    """
    sizes = torch.tensor([len(p) for p in proposals], device=foreground.mask.device)
    images = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
    of_object = images[foreground.mask].unsqueeze(1).to(foreground.gt_boxes)
    rows = torch.cat([of_object, foreground.gt_boxes], dim=1)
    return rows.unique(dim=0, return_inverse=True)[1]


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
