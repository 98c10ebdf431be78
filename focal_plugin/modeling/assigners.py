"""
Assigners: which anchors are positive for an object, `MODEL.FOCAL.ASSIGNER.NAME`.

Shape shorthand:
    N: number of images
    M: number of objects in an image
    Ri: anchors of feature level i
    R: anchors per image over all levels, the sum of Ri
    K: number of classes
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from yacs.config import CfgNode

from ..assignment import atss_assign, paa_assign, simota_assign, tal_assign
from ..assignment.pairs import centers_of
from ..checks import check_choice, check_count, check_option
from ..losses import SigmoidFocalLoss
from ..losses.base import BoxTransform, ClassificationLoss
from ..losses.box_iou import giou_loss_of_boxes
from ..registry import (
    DENSE,
    ConfigScope,
    ConfigurableModule,
    Registry,
    build_named,
    configurable,
    require_subclass,
)
from .matcher import Match, split_crowds

ASSIGNER_REGISTRY = Registry("ASSIGNER", lambda assigner: require_subclass(assigner, Assigner))
ASSIGNER_REGISTRY.__doc__ = """
Registry of further assigners, for `MODEL.FOCAL.ASSIGNER.NAME` and `MODEL.FOCAL.RPN.ASSIGNER`.

A registered class is an :class:`Assigner`, constructed as `Assigner(cfg)` or with its own keyword
arguments.
"""

MAX_IOU = "max_iou"
"""Name of Detectron2's rule, which labels an anchor by its largest IoU with an object."""


class AnchorGrid(NamedTuple):
    """Anchors of all images of a batch."""

    levels: list[Boxes]  # one per level, Ri boxes
    strides: list[int]  # pixels between two locations of each level
    per_location: int  # anchors per location

    @classmethod
    def of(cls, levels: list[Boxes], generator: Any) -> AnchorGrid:
        """Return the grid of anchors that Detectron2's generator has made."""
        return cls(levels, generator.strides, generator.num_anchors[0])


class DensePredictions(NamedTuple):
    """Predictions of the head, before the anchors have a target."""

    logits: list[Tensor]  # one per level, (N, ..., K)
    deltas: list[Tensor]  # one per level, (N, ..., 4)
    transform: BoxTransform
    sigmoid_logits: Callable[[Tensor], Tensor] = ClassificationLoss.sigmoid_logits

    def of_image(self, image: int, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (R, K), whose sigmoids are the scores, and the decoded boxes (R, 4)."""
        logits, deltas = (
            torch.cat([x[image].flatten(0, -2) for x in levels])
            for levels in (self.logits, self.deltas)
        )
        return self.sigmoid_logits(logits), self.transform.apply_deltas(deltas, anchors)


class Scene(NamedTuple):
    """Anchors, objects and predictions of one image."""

    levels: list[Tensor]  # one per level, (Ri, 4), XYXY
    strides: list[int]  # pixels between two locations of each level
    anchors_per_location: int
    gt_boxes: Tensor  # (M, 4), XYXY; M may be 0
    gt_classes: Tensor  # (M,), int64
    logits: Tensor | None  # (R, K); None unless the assigner needs predictions
    boxes: Tensor | None  # (R, 4), decoded; None like the logits

    @property
    def anchors(self) -> Tensor:
        """All anchors, (R, 4)."""
        return torch.cat(self.levels)

    @property
    def predictions(self) -> tuple[Tensor, Tensor]:
        """Logits and decoded boxes, of an assigner that needs them."""
        assert self.logits is not None
        assert self.boxes is not None
        return self.logits, self.boxes


class Assignment(NamedTuple):
    """Result of an assigner for one image."""

    objects: Tensor  # (R,), int64, index of the object; -1 for background
    target: Tensor | None = None  # (R,), in [0, 1], target and weight of a positive; None: 1


class Assigner(ConfigurableModule):
    """
    Base class of the assigners. A subclass implements :meth:`assign`.

    An assigner uses no random numbers and no gradient.
    """

    needs_predictions: ClassVar[bool] = False
    """True if the assigner reads logits and decoded boxes."""

    def assign(self, scene: Scene) -> Assignment:
        """Assign the anchors of one image."""
        raise NotImplementedError

    @torch.no_grad()
    def match(
        self,
        grid: AnchorGrid,
        gt_instances: list[Instances],
        predictions: DensePredictions | None = None,
    ) -> list[Match]:
        """
        Match the anchors of each image with its objects, but with no crowd region.

        Args:
            gt_instances: one per image, with gt_boxes and optional gt_classes.
            predictions: those of the same images. None is legal unless :attr:`needs_predictions`.

        Raises:
            ValueError: the assigner needs predictions, but there are none.
        """
        if self.needs_predictions and predictions is None:
            raise ValueError(
                f"{type(self).__name__} needs predictions, so anchors alone cannot be labeled"
            )
        levels = [boxes.tensor for boxes in grid.levels]
        matches = []
        for n, instances in enumerate(gt_instances):
            objects, crowds = split_crowds(instances)
            logits, boxes = None, None
            if self.needs_predictions and predictions is not None:
                logits, boxes = predictions.of_image(n, torch.cat(levels))
            gt_boxes = objects.gt_boxes.tensor
            gt_classes = (
                objects.gt_classes
                if objects.has("gt_classes")
                else torch.zeros(len(gt_boxes), dtype=torch.int64, device=gt_boxes.device)
            )
            owner, target = self.assign(
                Scene(
                    levels=levels,
                    strides=grid.strides,
                    anchors_per_location=grid.per_location,
                    gt_boxes=gt_boxes,
                    gt_classes=gt_classes,
                    logits=logits,
                    boxes=boxes,
                )
            )
            labels = (owner >= 0).to(torch.int8)
            matches.append(Match(owner.clamp(min=0), labels, objects, crowds, target))
        return matches


class ATSSAssigner(Assigner):
    """
    Module of :func:`atss_assign`.

    Reported:
        RetinaNet R-50-FPN with the recipe of FCOS, COCO: 37.0 -> 39.3 AP over IoU thresholds
    """

    config_keys = {
        "k": "MODEL.FOCAL.ASSIGNER.ATSS_K",
        "per_anchor": "MODEL.FOCAL.ASSIGNER.ATSS_PER_ANCHOR",
    }

    @configurable
    def __init__(self, *, k: int = 9, per_anchor: bool = True) -> None:
        """
        Initialize the assigner.

        Args:
            k: candidates on each level, >= 1.
            per_anchor: if True, as the authors do, k counts the candidates of each anchor shape, so
                that k locations are candidates. If False, as in mmdetection, k counts all of them.
        """
        super().__init__()
        self.k = check_count("k", k, low=1)
        self.per_anchor = check_choice("per_anchor", per_anchor, (True, False))

    def assign(self, scene: Scene) -> Assignment:
        per_location = scene.anchors_per_location if self.per_anchor else None
        objects = atss_assign(
            scene.levels, scene.gt_boxes, k=self.k, anchors_per_location=per_location
        )
        return Assignment(objects)


class TALAssigner(ATSSAssigner):
    """
    Module of :func:`tal_assign`.

    The target is the `quality` of a loss that requires one, and the weight of a positive. At first,
    the scores mean nothing. There the assigner is ATSS, and the target is 1.

    Reported:
        ATSS R-50-FPN with a task-aligned head, COCO: 39.3 -> 42.5 AP; none without that head
    """

    needs_predictions = True
    config_keys = {
        **ATSSAssigner.config_keys,
        "topk": "MODEL.FOCAL.ASSIGNER.TAL_TOPK",
        "alpha": "MODEL.FOCAL.ASSIGNER.TAL_ALPHA",
        "beta": "MODEL.FOCAL.ASSIGNER.TAL_BETA",
        "warmup": "MODEL.FOCAL.ASSIGNER.TAL_WARMUP",
        "max_iter": "SOLVER.MAX_ITER",
    }

    @configurable
    def __init__(
        self,
        *,
        k: int = 9,
        per_anchor: bool = True,
        topk: int = 13,
        alpha: float = 1.0,
        beta: float = 6.0,
        warmup: float = 0.0,
        max_iter: int = 0,
    ) -> None:
        """
        Initialize the assigner.

        Args:
            k, per_anchor: those of ATSS.
            topk: candidates of an object on all levels together, >= 1.
            alpha, beta: exponents of score and IoU, >= 0.
            warmup: share of the training with ATSS, in [0, 1].
            max_iter: iterations of the training, >= 0.
        """
        super().__init__(k=k, per_anchor=per_anchor)
        self.topk = check_count("topk", topk, low=1)
        self.alpha = check_option("alpha", alpha, low=0)
        self.beta = check_option("beta", beta, low=0)
        self.warmup = check_option("warmup", warmup, low=0, high=1)
        self.max_iter = check_count("max_iter", max_iter, low=0)
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def match(
        self,
        grid: AnchorGrid,
        gt_instances: list[Instances],
        predictions: DensePredictions | None = None,
    ) -> list[Match]:
        """Match like :meth:`Assigner.match`, and count the steps of the training."""
        matches = super().match(grid, gt_instances, predictions)
        if self.training:
            self.steps += 1
        return matches

    def assign(self, scene: Scene) -> Assignment:
        if self.steps < self.warmup * self.max_iter:
            objects = super().assign(scene).objects
            return Assignment(objects, (objects >= 0).float())
        objects, target = tal_assign(
            *scene.predictions,
            scene.anchors,
            scene.gt_boxes,
            scene.gt_classes,
            topk=self.topk,
            alpha=self.alpha,
            beta=self.beta,
        )
        return Assignment(objects, target)


class SimOTAAssigner(Assigner):
    """
    Module of :func:`simota_assign`.

    Reported:
        none for a RetinaNet
    """

    needs_predictions = True
    config_keys = {
        "center_radius": "MODEL.FOCAL.ASSIGNER.SIMOTA_RADIUS",
        "candidate_topk": "MODEL.FOCAL.ASSIGNER.SIMOTA_TOPK",
        "iou_weight": "MODEL.FOCAL.ASSIGNER.SIMOTA_IOU_WEIGHT",
    }

    @configurable
    def __init__(
        self, *, center_radius: float = 2.5, candidate_topk: int = 10, iou_weight: float = 3.0
    ) -> None:
        """
        Initialize the assigner.

        Args:
            center_radius: distance from the center of an object, in strides, > 0.
            candidate_topk: maximum number of anchors of an object, >= 1.
            iou_weight: weight of the box in the cost, >= 0.
        """
        super().__init__()
        self.center_radius = check_option("center_radius", center_radius, low=0, open_low=True)
        self.candidate_topk = check_count("candidate_topk", candidate_topk, low=1)
        self.iou_weight = check_option("iou_weight", iou_weight, low=0)

    def assign(self, scene: Scene) -> Assignment:
        anchors = scene.anchors
        strides = [
            anchors.new_full((len(level),), float(stride))
            for level, stride in zip(scene.levels, scene.strides, strict=True)
        ]
        objects = simota_assign(
            *scene.predictions,
            centers_of(anchors),
            torch.cat(strides),
            scene.gt_boxes,
            scene.gt_classes,
            center_radius=self.center_radius,
            candidate_topk=self.candidate_topk,
            iou_weight=self.iou_weight,
        )
        return Assignment(objects)


class PAAAssigner(Assigner):
    """
    Module of :func:`paa_assign`.

    The loss of a candidate is the focal loss plus the GIoU loss, whatever the detector trains with.

    Reported:
        ATSS R-50-FPN with an IoU branch, COCO: 39.4 -> 40.2 AP; none without that branch
    """

    needs_predictions = True
    config_keys = {
        "topk": "MODEL.FOCAL.ASSIGNER.PAA_TOPK",
        "iou_threshold": "MODEL.FOCAL.ASSIGNER.PAA_IOU",
        "alpha": "MODEL.RETINANET.FOCAL_LOSS_ALPHA",
        "gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
    }

    @configurable
    def __init__(
        self,
        *,
        topk: int = 9,
        iou_threshold: float = 0.1,
        alpha: float | None = 0.25,
        gamma: float = 2.0,
    ) -> None:
        """
        Initialize the assigner.

        Args:
            topk: candidates of an object on each level, >= 1.
            iou_threshold: IoU of a candidate, in (0, 1].
            alpha, gamma: those of the focal loss.
        """
        super().__init__()
        self.topk = check_count("topk", topk, low=1)
        self.iou_threshold = check_option(
            "iou_threshold", iou_threshold, low=0, high=1, open_low=True
        )
        self.focal_loss = SigmoidFocalLoss(alpha=alpha, gamma=gamma)
        self.alpha, self.gamma = self.focal_loss.alpha, self.focal_loss.gamma

    def assign(self, scene: Scene) -> Assignment:
        logits, boxes = (x.float() for x in scene.predictions)

        def loss(anchors: Tensor, objects: Tensor) -> Tensor:
            of_class = self.focal_loss.per_anchor(logits[anchors], scene.gt_classes[objects])
            return of_class + giou_loss_of_boxes(boxes[anchors], scene.gt_boxes[objects])

        objects = paa_assign(
            scene.levels,
            scene.gt_boxes,
            loss,
            topk=self.topk,
            iou_threshold=self.iou_threshold,
        )
        return Assignment(objects)


ASSIGNERS: dict[str, type[Assigner]] = {
    "atss": ATSSAssigner,
    "tal": TALAssigner,
    "simota": SimOTAAssigner,
    "paa": PAAAssigner,
}


def build_assigner(cfg: CfgNode, config_scope: ConfigScope = DENSE) -> Assigner | None:
    """
    Build the assigner that `MODEL.FOCAL.ASSIGNER.NAME` names.

    Args:
        config_scope: the location of the name, if it is moved. The options do not move.

    Returns:
        the assigner; None for "max_iou", the rule of the detector's own anchor matcher.

    Raises:
        KeyError: no assigner has that name; the message lists the available names.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    if config_scope.read(cfg, "MODEL.FOCAL.ASSIGNER.NAME") == MAX_IOU:
        return None
    registered: Iterable[tuple[str, type[Assigner]]] = ASSIGNER_REGISTRY
    known: list[tuple[str, type[Assigner]]] = [*registered, (MAX_IOU, Assigner), *ASSIGNERS.items()]
    return build_named(known, "MODEL.FOCAL.ASSIGNER.NAME", cfg, config_scope=config_scope)
