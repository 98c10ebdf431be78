"""
RoI heads: Detectron2's with our output layers, and those trained on the RoIs of highest loss.
Registered in Detectron2's own `ROI_HEADS_REGISTRY`, and so chosen by `MODEL.ROI_HEADS.NAME`.

Shape shorthand:
    N: number of images
    R: number of RoIs of an image, padded to that with the most
    K: number of classes
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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

from ..mining import Miner, build_miner
from ..registry import configurable
from .fast_rcnn import FocalFastRCNNOutputLayers
from .matcher import split_crowds
from .places import ROI_HEADS

_SCRIPT_CONSTANTS = {"mask_on": torch.jit.Final[bool], "keypoint_on": torch.jit.Final[bool]}
"""For TorchScript: Detectron2 says as much of its own class, and a subclass does not inherit it."""


@ROI_HEADS_REGISTRY.register()
class FocalROIHeads(StandardROIHeads):
    """
    Same interface as Detectron2's `StandardROIHeads`, but its predictor is a
    :class:`~focal_plugin.modeling.fast_rcnn.FocalFastRCNNOutputLayers`, and an instance with a
    negative class is a crowd region, with which no RoI is matched. At the default keys they are
    the stock heads of Faster, Mask and Keypoint R-CNN (arXiv:1506.01497, arXiv:1703.06870).

    Reported:
        none on COCO
    """

    __annotations__ = dict(_SCRIPT_CONSTANTS)

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        stock = super()._init_box_head(cfg, input_shape)
        return {**stock, "box_predictor": _build_predictor(cfg, stock["box_predictor"])}

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Same interface as Detectron2's, but crowd regions are no objects."""
        return super().label_and_sample_proposals(proposals, _without_crowds(targets))


@ROI_HEADS_REGISTRY.register()
class FocalCascadeROIHeads(CascadeROIHeads):
    """
    Same as :class:`FocalROIHeads`, but of Detectron2's `CascadeROIHeads` (arXiv:1712.00726): each
    stage has losses of its own, with the same options.

    Reported:
        none on COCO
    """

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        stock = super()._init_box_head(cfg, input_shape)
        predictors = [_build_predictor(cfg, predictor) for predictor in stock["box_predictors"]]
        return {**stock, "box_predictors": predictors}

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Same interface as Detectron2's, but crowd regions are no objects."""
        return super().label_and_sample_proposals(proposals, _without_crowds(targets))

    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        return super()._match_and_label_boxes(proposals, stage, _without_crowds(targets))


class _TrainsOnHardRoIs(StandardROIHeads):
    """What makes RoI heads those of :class:`OHEMROIHeads`, whatever their box head."""

    @configurable
    def __init__(self, *, miner: Miner | None, **kwargs: Any) -> None:
        """
        Args:
            miner: which RoIs are trained on; only its `scope` and `rank_by` are asked for, of the
                options that are a detector's. None: all of them.
            kwargs: as in the heads without mining.

        Raises:
            ValueError: a box predictor is not a :class:`FocalFastRCNNOutputLayers`.
        """
        super().__init__(**kwargs)
        self.miner = miner
        predictors = [self.box_predictor]
        if isinstance(self.box_predictor, nn.ModuleList):  # a stage each
            predictors = list(self.box_predictor)
        if not all(isinstance(x, FocalFastRCNNOutputLayers) for x in predictors):
            raise ValueError(
                "mining wants box predictors that know the loss of each RoI: "
                f"FocalFastRCNNOutputLayers, got {type(predictors[0]).__name__}"
            )

    @classmethod
    def from_config(  # type: ignore[override]  # as StandardROIHeads, unlike its own base
        cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]
    ) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            "miner": build_miner(cfg, ROI_HEADS),
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Same interface as Detectron2's, but in training the heads see the RoIs kept only."""
        if self.training:
            assert targets, "'targets' argument is required during training"
            return self._forward_training(features, proposals, targets)
        else:  # as in both stock heads; TorchScript knows no super() and wants the else
            instances = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, instances), {}

    def _forward_training(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        with get_event_storage().name_scope("before_mining"):
            proposals = self.label_and_sample_proposals(proposals, targets)
        if self.miner is not None:
            proposals = self._mine(self.miner, features, proposals)
        self._log_samples(proposals)
        losses = self._box_losses(features, proposals, targets)
        losses.update(self._forward_mask(features, proposals))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Every RoI with a label, in its place, and no random number."""
        labels = torch.full_like(matched_idxs, self.num_classes)
        if len(gt_classes):
            labels = torch.where(matched_labels == 0, labels, gt_classes[matched_idxs])
            labels = labels.masked_fill(matched_labels == -1, -1)
        sampled = (labels != -1).nonzero().squeeze(1)
        return sampled, labels[sampled]

    def _first_predictions(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[FocalFastRCNNOutputLayers, tuple[Tensor, Tensor]]:
        """The box predictor that RoIs are ranked by, and its predictions."""
        raise NotImplementedError

    def _box_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        raise NotImplementedError

    @torch.no_grad()
    def _mine(
        self, miner: Miner, features: dict[str, Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        """The RoIs that the miner keeps."""
        with _evaluating(self):
            predictor, predictions = self._first_predictions(features, proposals)
            losses = predictor.losses_per_roi(predictions, proposals)
        rank = losses["loss_cls"]
        if miner.rank_by == "cls_and_box":
            rank = rank + losses["loss_box_reg"]
        keep = miner(
            pad_sequence(rank.split([len(p) for p in proposals]), batch_first=True),
            pad_sequence([p.gt_classes for p in proposals], batch_first=True, padding_value=-1),
            pad_sequence([p.proposal_boxes.tensor for p in proposals], batch_first=True),
        )  # (N, R)
        return [p[kept[: len(p)]] for p, kept in zip(proposals, keep, strict=True)]

    def _log_samples(self, proposals: list[Instances]) -> None:
        """As :meth:`label_and_sample_proposals` has logged those before mining."""
        num_rois = sum(len(p) for p in proposals)
        num_bg = sum((p.gt_classes == self.num_classes).sum().item() for p in proposals)
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", (num_rois - num_bg) / len(proposals))
        storage.put_scalar("roi_head/num_bg_samples", num_bg / len(proposals))


@ROI_HEADS_REGISTRY.register()
class OHEMROIHeads(_TrainsOnHardRoIs, FocalROIHeads):
    """
    Same as :class:`FocalROIHeads`, but trained on the RoIs of highest loss in place of a random
    sample (OHEM, arXiv:1604.03540).

        keep = top B by loss of NMS(RoIs of one image and label, score = loss)

    One pass without gradients over all labeled RoIs, objects included, gives the loss of each, and
    the miner those to train on: box, mask and keypoint head see no other. There is no quota for
    objects. Inference is stock's.

    Note:
        In the first pass dropout is off and a batch norm takes its running statistics, of which the
        pass moves none; there is no random number in it. The authors left dropout on.

    Reported:
        Fast R-CNN VGG16, VOC07: 66.9 -> 69.9 mAP; by their README less where the RPN is trained too
    """

    __annotations__ = dict(_SCRIPT_CONSTANTS)

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


@ROI_HEADS_REGISTRY.register()
class OHEMCascadeROIHeads(_TrainsOnHardRoIs, FocalCascadeROIHeads):
    """
    Same as :class:`OHEMROIHeads`, but of :class:`FocalCascadeROIHeads`. RoIs are ranked by their
    loss in the first stage, and those kept go through all (arXiv:1604.03540, arXiv:1712.00726).

    Reported:
        none on COCO
    """

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


def _build_predictor(cfg: CfgNode, stock: FastRCNNOutputLayers) -> FocalFastRCNNOutputLayers:
    """
    Our output layers with stock's initial weights, and without a trace in the random generator:
    all else starts as in stock at the same seed.
    """
    with torch.random.fork_rng(devices=[]):
        options = FocalFastRCNNOutputLayers.from_config(
            cfg, ShapeSpec(channels=stock.cls_score.in_features)
        )
        predictor = FocalFastRCNNOutputLayers(
            **{**options, "box2box_transform": stock.box2box_transform}
        )
    predictor.cls_score.weight = stock.cls_score.weight
    predictor.bbox_pred.weight = stock.bbox_pred.weight
    return predictor


def _without_crowds(targets: list[Instances]) -> list[Instances]:
    return [split_crowds(instances)[0] for instances in targets]


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """
    Evaluation mode for a while; then each submodule has the mode it had. Of all ways to leave the
    statistics of batch norms and the random generator alone, it is the one that every layer knows.
    """
    training = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in training.items():
            submodule.training = mode
