"""
RoI heads with configurable output layers, and RoI heads that select the RoIs to train on.

They are registered in Detectron2's own `ROI_HEADS_REGISTRY`, and `MODEL.ROI_HEADS.NAME` chooses
one.

Shape shorthand:
    N: number of images
    R: number of RoIs of an image, padded to the maximum over the images
    K: number of classes
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    FastRCNNOutputLayers,
    StandardROIHeads,
)
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..losses import elementwise_iou
from ..losses.base import ClassificationLoss, require_rows
from ..mining import Miner, build_miner
from ..registry import build_part, configurable
from .class_names import name_classes
from .config_scopes import ROI_HEADS
from .fast_rcnn import WEIGHTS, FocalFastRCNNOutputLayers
from .federated import without_federated_loss
from .matcher import split_crowds
from .roi_sampler import LabeledRoIs, RoISampler, ScoredRoIs
from .unused_keys import warn_of_replaced

_SCRIPT_CONSTANTS = {"mask_on": torch.jit.Final[bool], "keypoint_on": torch.jit.Final[bool]}
"""Annotations for TorchScript. Detectron2 has them on its class, and subclasses do not inherit."""


@ROI_HEADS_REGISTRY.register()
class FocalROIHeads(StandardROIHeads):
    """
    Detectron2's `StandardROIHeads` with configurable output layers and support of crowd regions.

    The predictor is a :class:`~focal_plugin.modeling.fast_rcnn.FocalFastRCNNOutputLayers`. An
    instance with a negative class is a crowd region, and no RoI is matched with it. At the default
    keys they are the stock heads of Faster, Mask and Keypoint R-CNN (arXiv:1506.01497,
    arXiv:1703.06870).

    Reported:
        none on COCO
    """

    __annotations__ = dict(_SCRIPT_CONSTANTS)

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        name_classes(cfg)
        stock = super()._init_box_head(without_federated_loss(cfg), input_shape)
        return {**stock, "box_predictor": _build_predictor(cfg, stock["box_predictor"])}

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Label and sample like Detectron2's method, but treat no crowd region as an object."""
        return super().label_and_sample_proposals(proposals, _without_crowds(targets))


@ROI_HEADS_REGISTRY.register()
class FocalCascadeROIHeads(CascadeROIHeads):
    """
    Variant of :class:`FocalROIHeads` for Detectron2's `CascadeROIHeads` (arXiv:1712.00726).

    Each stage has its own losses, with the same options.

    Reported:
        none on COCO
    """

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        name_classes(cfg)
        stock = super()._init_box_head(without_federated_loss(cfg), input_shape)
        predictors = [_build_predictor(cfg, predictor) for predictor in stock["box_predictors"]]
        return {**stock, "box_predictors": predictors}

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Label and sample like Detectron2's method, but treat no crowd region as an object."""
        return super().label_and_sample_proposals(proposals, _without_crowds(targets))

    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        return super()._match_and_label_boxes(proposals, stage, _without_crowds(targets))


class _SelectsRoIs(StandardROIHeads):
    """
    Mixin of RoI heads that label all RoIs and then select those to train on.

    A subclass implements :meth:`_select`.
    """

    scope_of_all: ClassVar[str]
    """Scope of the statistics of all RoIs in the event storage."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        """
        Initialize the heads.

        Args:
            kwargs: see the heads without a selection.

        Raises:
            ValueError: a box predictor is not a :class:`FocalFastRCNNOutputLayers`.
        """
        super().__init__(**kwargs)
        predictors = self._predictors()
        if not all(isinstance(x, FocalFastRCNNOutputLayers) for x in predictors):
            raise ValueError(
                f"{type(self).__name__} requires box predictors that return the loss of each RoI: "
                f"FocalFastRCNNOutputLayers, got {type(predictors[0]).__name__}"
            )

    def _predictors(self) -> list[Any]:
        """Return the box predictor of each stage."""
        if isinstance(self.box_predictor, nn.ModuleList):
            return list(self.box_predictor)
        return [self.box_predictor]

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Run the heads like Detectron2's method; in training, on the kept RoIs only."""
        if self.training:
            assert targets, "'targets' argument is required during training"
            return self._forward_training(features, proposals, targets)
        else:  # as in both stock heads; TorchScript has no super() and requires the else
            instances = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, instances), {}

    def _forward_training(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        with get_event_storage().name_scope(self.scope_of_all):
            proposals = self.label_and_sample_proposals(proposals, targets)
        with torch.no_grad():
            proposals = self._select(features, proposals)
        self._log_samples(proposals)
        losses = self._box_losses(features, proposals, targets)
        losses.update(self._forward_mask(features, proposals))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return every RoI with a label, in order, without random numbers."""
        labels = torch.full_like(matched_idxs, self.num_classes)
        if len(gt_classes):
            labels = torch.where(matched_labels == 0, labels, gt_classes[matched_idxs])
            labels = labels.masked_fill(matched_labels == -1, -1)
        sampled = (labels != -1).nonzero().squeeze(1)
        return sampled, labels[sampled]

    def _first_predictions(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[FocalFastRCNNOutputLayers, tuple[Tensor, Tensor]]:
        """Return the box predictor that ranks the RoIs, and its predictions."""
        raise NotImplementedError

    def _box_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        raise NotImplementedError

    def _select(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        """Return the RoIs to train on, of all labeled ones."""
        raise NotImplementedError

    def _log_samples(self, proposals: list[Instances]) -> None:
        """Log the selected RoIs like :meth:`label_and_sample_proposals` logs all of them."""
        num_rois = sum(len(p) for p in proposals)
        num_bg = sum((p.gt_classes == self.num_classes).sum().item() for p in proposals)
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", (num_rois - num_bg) / len(proposals))
        storage.put_scalar("roi_head/num_bg_samples", num_bg / len(proposals))


class _OfOneStage(_SelectsRoIs, FocalROIHeads):
    """Mixin for heads with one stage."""

    def _first_predictions(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[FocalFastRCNNOutputLayers, tuple[Tensor, Tensor]]:
        levels = [features[f] for f in self.box_in_features]
        pooled = self.box_pooler(levels, [p.proposal_boxes for p in proposals])
        assert isinstance(self.box_predictor, FocalFastRCNNOutputLayers)
        return self.box_predictor, self.box_predictor(self.box_head(pooled))

    def _box_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        return self._forward_box(features, proposals)


class _OfCascade(_SelectsRoIs, FocalCascadeROIHeads):
    """Mixin for heads with several stages, of which the first ranks the RoIs."""

    def _first_predictions(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[FocalFastRCNNOutputLayers, tuple[Tensor, Tensor]]:
        levels = [features[f] for f in self.box_in_features]
        assert isinstance(self.box_predictor, nn.ModuleList)
        predictor = self.box_predictor[0]
        assert isinstance(predictor, FocalFastRCNNOutputLayers)
        return predictor, self._run_stage(levels, proposals, 0)

    def _box_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        return self._forward_box(features, proposals, targets)


class _TrainsOnHardRoIs(_SelectsRoIs):
    """Mixin of RoI heads that adds the mining of :class:`OHEMROIHeads`."""

    scope_of_all = "before_mining"

    @configurable
    def __init__(self, *, miner: Miner | None, **kwargs: Any) -> None:
        """
        Initialize the heads.

        Args:
            miner: the selection of the RoIs to train on; None: all of them. Of a miner's options
                for a detector, only `scope` and `rank_by` apply.
            kwargs: see the heads without mining.

        Raises:
            ValueError: a box predictor is not a :class:`FocalFastRCNNOutputLayers`.
        """
        super().__init__(**kwargs)
        self.miner = miner
        if miner is not None:
            losses = [getattr(x, "cls_loss", None) for x in self._predictors()]
            require_rows(*(loss for loss in losses if isinstance(loss, ClassificationLoss)))

    @classmethod
    def from_config(  # type: ignore[override]  # like StandardROIHeads, unlike its own base
        cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]
    ) -> dict[str, Any]:
        warn_of_replaced(cfg, {"MODEL.ROI_HEADS.POSITIVE_FRACTION": "MODEL.ROI_HEADS.NAME"})
        return {
            **super().from_config(cfg, input_shape),
            "miner": build_miner(cfg, ROI_HEADS),
        }

    def _select(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        """Return the RoIs that the miner keeps."""
        if self.miner is None:
            return proposals
        with _evaluating(self):
            predictor, predictions = self._first_predictions(features, proposals)
            losses = predictor.losses_per_roi(predictions, proposals)
        rank = losses["loss_cls"]
        if self.miner.rank_by == "cls_and_box":
            rank = rank + losses["loss_box_reg"]
        keep = self.miner(
            pad_sequence(rank.split([len(p) for p in proposals]), batch_first=True),
            pad_sequence([p.gt_classes for p in proposals], batch_first=True, padding_value=-1),
            pad_sequence([p.proposal_boxes.tensor for p in proposals], batch_first=True),
        )  # (N, R)
        return [p[kept[: len(p)]] for p, kept in zip(proposals, keep, strict=True)]


class _TrainsOnSampledRoIs(_SelectsRoIs):
    """Mixin of RoI heads that adds the sampling of :class:`SampledROIHeads`."""

    scope_of_all = "before_sampling"

    @configurable
    def __init__(self, *, sampler: RoISampler, **kwargs: Any) -> None:
        """
        Initialize the heads.

        Args:
            sampler: the draw of the RoIs to train on.
            kwargs: see the heads without a sampler.

        Raises:
            ValueError: a box predictor is not a :class:`FocalFastRCNNOutputLayers`, or the sampler
                weighs RoIs and a box predictor has stock's own loss.
        """
        super().__init__(**kwargs)
        self.sampler = sampler
        if sampler.needs_scores:
            losses = [predictor.cls_loss for predictor in self._predictors()]
            if None in losses:
                raise ValueError(
                    f"{sampler.key_of('negatives')} = {sampler.negatives!r} requires a loss in "
                    "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME: stock's own has no weights of RoIs"
                )
            require_rows(*losses)

    @classmethod
    def from_config(  # type: ignore[override]  # like StandardROIHeads, unlike its own base
        cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]
    ) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "sampler": build_part(RoISampler, cfg)}

    def _select(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        """Return the RoIs that the sampler draws, with the weights of their losses."""
        scored: list[ScoredRoIs | None] = [None] * len(proposals)
        if self.sampler.needs_scores:
            with _evaluating(self):
                predictor, predictions = self._first_predictions(features, proposals)
                scored = [*_score(predictor, predictions, proposals)]
        sampled = []
        for rois, scores in zip(proposals, scored, strict=True):
            indices, weights = self.sampler.sample(
                _labeled(rois, self.num_classes),
                num_rois=self.batch_size_per_image,
                max_positives=int(self.batch_size_per_image * self.positive_fraction),
                scored=scores,
            )
            chosen = rois[indices]  # type: ignore[index]  # Detectron2 annotates masks only
            if weights is not None:
                chosen.set(WEIGHTS, weights)
            sampled.append(chosen)
        return sampled


@ROI_HEADS_REGISTRY.register()
class OHEMROIHeads(_TrainsOnHardRoIs, _OfOneStage):
    """
    Variant of :class:`FocalROIHeads` that trains on the RoIs of highest loss.

        keep = top B by loss of NMS(RoIs of one image and label, score = loss)

    It is OHEM, arXiv:1604.03540, which replaces the random sample. One pass without gradients over
    all labeled RoIs, objects included, computes the loss of each. The miner selects the RoIs that
    the box, mask and keypoint heads train on. There is no quota for objects. Inference is stock's.

    Note:
        In the first pass dropout is off, and batch norm uses its running statistics without an
        update. The pass draws no random number. The authors left dropout on.

    Reported:
        Fast R-CNN VGG16, VOC07: 66.9 -> 69.9 mAP; less if the RPN is trained too, by its README
    """

    __annotations__ = dict(_SCRIPT_CONSTANTS)


@ROI_HEADS_REGISTRY.register()
class OHEMCascadeROIHeads(_TrainsOnHardRoIs, _OfCascade):
    """
    Variant of :class:`OHEMROIHeads` for :class:`FocalCascadeROIHeads`.

    The loss in the first stage ranks the RoIs, and the kept ones go through all stages
    (arXiv:1604.03540, arXiv:1712.00726).

    Reported:
        none on COCO
    """


@ROI_HEADS_REGISTRY.register()
class SampledROIHeads(_TrainsOnSampledRoIs, _OfOneStage):
    """
    Variant of :class:`FocalROIHeads` that draws the RoIs by object, IoU or score.

        keep = positives, at most a fraction, and negatives up to the batch size

    Libra R-CNN balances the negatives by IoU and the positives by object (arXiv:1904.02701). PISA
    ranks the negatives by score and weighs them (arXiv:1904.04821). The keys are in
    `MODEL.FOCAL.ROI_HEADS.SAMPLER`. At their defaults the draw is random, as in stock.

    Note:
        The ranking by score needs one more pass without gradients, over all labeled RoIs.

    Reported:
        Faster R-CNN R-50-FPN, COCO: 37.4 -> 38.3 AP for all of Libra R-CNN (pyramid and box loss,
        too)
    """

    __annotations__ = dict(_SCRIPT_CONSTANTS)


@ROI_HEADS_REGISTRY.register()
class SampledCascadeROIHeads(_TrainsOnSampledRoIs, _OfCascade):
    """
    Variant of :class:`SampledROIHeads` for :class:`FocalCascadeROIHeads`.

    The drawn RoIs go through all stages. Weights of negatives apply to the first stage only
    (arXiv:1904.02701, arXiv:1712.00726).

    Reported:
        none on COCO
    """


def _labeled(rois: Instances, num_classes: int) -> LabeledRoIs:
    is_positive = rois.gt_classes < num_classes
    if not rois.has("gt_boxes"):  # an image without objects
        nothing = torch.zeros(len(rois), device=is_positive.device)
        return LabeledRoIs(is_positive, objects=nothing.long(), max_iou=nothing)
    return LabeledRoIs(
        is_positive,
        objects=rois.gt_boxes.tensor.unique(dim=0, return_inverse=True)[1],
        max_iou=elementwise_iou(rois.proposal_boxes.tensor, rois.gt_boxes.tensor),
    )


def _score(
    predictor: FocalFastRCNNOutputLayers,
    predictions: tuple[Tensor, Tensor],
    proposals: list[Instances],
) -> Iterator[ScoredRoIs]:
    """Yield the best class, its box and the classification loss of the RoIs of each image."""
    losses = predictor.losses_per_roi(predictions, proposals)["loss_cls"]
    for probs, boxes, loss in zip(
        predictor.predict_probs(predictions, proposals),
        predictor.predict_boxes(predictions, proposals),
        losses.split([len(p) for p in proposals]),
        strict=True,
    ):
        scores, classes = probs[:, :-1].max(dim=1)
        of_classes = boxes.unflatten(1, (-1, 4))
        if of_classes.shape[1] == 1:  # class-agnostic
            classes = torch.zeros_like(classes)
        own_box = of_classes[torch.arange(len(boxes), device=classes.device), classes]
        yield ScoredRoIs(scores, own_box, loss)


def _build_predictor(cfg: CfgNode, stock: FastRCNNOutputLayers) -> FocalFastRCNNOutputLayers:
    """
    Build the configured output layers with stock's initial weights, where the shapes are the same.

    The random generator stays unchanged, so that all other layers start as in stock at the same
    seed.
    """
    with torch.random.fork_rng(devices=[]):
        options = FocalFastRCNNOutputLayers.from_config(
            cfg, ShapeSpec(channels=stock.cls_score.in_features)
        )
        predictor = FocalFastRCNNOutputLayers(
            **{**options, "box2box_transform": stock.box2box_transform}
        )
    if predictor.cls_score.weight.shape == stock.cls_score.weight.shape:
        predictor.cls_score.weight = stock.cls_score.weight
    predictor.bbox_pred.weight = stock.bbox_pred.weight
    return predictor


def _without_crowds(targets: list[Instances]) -> list[Instances]:
    return [split_crowds(instances)[0] for instances in targets]


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """
    Set evaluation mode inside the context, and restore the mode of each submodule on exit.

    Evaluation mode keeps batch-norm statistics and the random generator unchanged. Unlike other
    ways to do so, every layer supports it.
    """
    training = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in training.items():
            submodule.train(mode)
