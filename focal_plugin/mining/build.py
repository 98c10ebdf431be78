"""
Registry and base class of the miners.

Shape shorthand:
    N: number of images
    R: anchors per image over all levels
    K: number of classes
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from ..checks import check_choice, check_count, check_option
from ..registry import (
    DENSE,
    ConfigScope,
    ConfigurableModule,
    Registry,
    build_named,
    configurable,
    require_subclass,
)
from .inputs import BoxesOf, check_inputs, check_num_classes
from .selection import positive_mask

MINER_REGISTRY = Registry("MINER", lambda miner: require_subclass(miner, Miner))
MINER_REGISTRY.__doc__ = """
Registry of hard example miners, chosen by `MODEL.FOCAL.MINING.NAME`.

A registered class is a :class:`Miner`, constructed as `Miner(cfg)` or with its own keyword
arguments.
"""


def build_miner(cfg: CfgNode, config_scope: ConfigScope = DENSE) -> Miner | None:
    """
    Build the miner that `MODEL.FOCAL.MINING.NAME` names.

    Args:
        config_scope: the location of the name and the options, if not `MODEL.FOCAL.MINING`.

    Returns:
        the miner; None if the name is empty, and then every anchor counts.

    Raises:
        KeyError: no miner has that name; the message lists the registered ones.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    if not config_scope.read(cfg, "MODEL.FOCAL.MINING.NAME"):
        return None
    miners: Iterable[tuple[str, type[Miner]]] = MINER_REGISTRY
    return build_named(miners, "MODEL.FOCAL.MINING.NAME", cfg, config_scope=config_scope)


class Miner(ConfigurableModule):
    """
    Base class of every miner, which selects the anchors of the classification loss.

    A subclass implements :meth:`select`. It also implements :meth:`candidates` if only some anchors
    compete. The class attribute and the options here tell a detector how to use the miner.


    Attributes:
        scope: "image", or "batch": the anchors of all N images compete for N times the quotas of
            one image. An "image without positives" is then a batch without positives.
        rank_by: the loss to rank by: "cls", or "cls_and_box".
        box_loss_on: the box loss is summed over "all" positives, or over the "kept" ones.
        divide_by: the classification loss is divided by the "normalizer", or by the number of
            anchors "kept".
    """

    needs_boxes: ClassVar[bool] = False
    """True if the miner requires a box of each anchor."""
    nms_boxes = "decoded"
    """Boxes that the miner receives: "decoded" from the predicted deltas, or the "anchors"."""

    config_keys = {
        "num_classes": "MODEL.RETINANET.NUM_CLASSES",
        "scope": "MODEL.FOCAL.MINING.SCOPE",
        "rank_by": "MODEL.FOCAL.MINING.RANK_BY",
        "box_loss_on": "MODEL.FOCAL.MINING.BOX_LOSS_ON",
        "divide_by": "MODEL.FOCAL.MINING.DIVIDE_BY",
    }

    @configurable
    def __init__(
        self,
        *,
        num_classes: int | None = None,
        scope: str = "image",
        rank_by: str = "cls",
        box_loss_on: str = "all",
        divide_by: str = "normalizer",
    ) -> None:
        """
        Initialize the miner.

        Args:
            num_classes: K, the label of the background. None means the largest label present, which
                is correct if the batch has a background anchor.
            scope, rank_by, box_loss_on, divide_by: see the class.
        """
        super().__init__()
        self.num_classes = check_num_classes(num_classes)
        self.scope = check_choice("scope", scope, ("image", "batch"))
        self.rank_by = check_choice("rank_by", rank_by, ("cls", "cls_and_box"))
        self.box_loss_on = check_choice("box_loss_on", box_loss_on, ("all", "kept"))
        self.divide_by = check_choice("divide_by", divide_by, ("normalizer", "kept"))

    @torch.jit.unused  # training only: the exported detector stays the stock one
    @torch.no_grad()
    def forward(
        self, loss: Tensor, labels: Tensor, boxes: Tensor | BoxesOf | None = None
    ) -> Tensor:
        """
        Select the anchors that the classification loss is summed over.

        Args:
            loss: (N, R), any floating dtype; compared in float32.
            labels: (N, R), integer in {-1 (ignored), 0..K-1, K (background)}.
            boxes: (N, R, 4), XYXY, or a function that returns boxes on demand. Only the compared
                boxes are requested, in one or several calls. None is legal unless
                :attr:`needs_boxes`.

        Returns:
            bool (N, R), False for every ignored anchor. Of equal losses the lower index is kept.

        Raises:
            ValueError: the shapes do not match, the required boxes are missing, or (checked on the
                CPU only) a label is outside -1..K.
        """
        given = boxes if isinstance(boxes, Tensor) else None
        labels = check_inputs(loss, labels, given, num_classes=self.num_classes)
        boxes_of = _boxes_of(boxes) if isinstance(boxes, Tensor) else boxes
        if self.needs_boxes and boxes_of is None:
            raise ValueError(f"{type(self).__name__} requires boxes (N, R, 4), got None")
        masks = (
            self.candidates(loss, labels, boxes_of),
            positive_mask(labels, num_classes=self.num_classes),
        )
        if self.scope == "batch":
            of_batch = [x.flatten() for x in (loss, *masks)]  # (N * R,)
            return self.select(*of_batch, num_images=len(labels)).view(labels.shape)
        keep = torch.zeros_like(masks[0])
        for image, of_image in enumerate(zip(loss, *masks, strict=True)):
            keep[image] = self.select(*of_image, num_images=1)
        return keep

    if TYPE_CHECKING:  # nn.Module declares its call as Callable[..., Any]
        __call__ = forward

    def candidates(self, loss: Tensor, labels: Tensor, boxes: BoxesOf | None) -> Tensor:
        """
        Select the anchors that compete, from the arguments of :meth:`forward`.

        Returns:
            bool (N, R). In this base class, all anchors compete that are not ignored. Anchors that
            :meth:`select` cannot keep may be missing.
        """
        return labels != -1

    def select(
        self, loss: Tensor, candidates: Tensor, positives: Tensor, *, num_images: int
    ) -> Tensor:
        """
        Choose among anchors that compete with each other.

        Args:
            loss: (R,), or (N * R,) of a whole batch.
            candidates: bool, the same shape; the anchors to choose from.
            positives: bool, the same shape; the anchors with an object.
            num_images: number of images whose quotas apply: 1 or N.

        Returns:
            bool, the same shape.
        """
        raise NotImplementedError


class RatioMiner(Miner):
    """
    Base class of miners that keep negatives in a ratio to the positives.

    Attributes:
        neg_pos_ratio: negatives per positive, > 0.
        empty_image_negatives: negatives of an image without positives, >= 0.
    """

    config_keys = {
        **Miner.config_keys,
        "neg_pos_ratio": "MODEL.FOCAL.MINING.NEG_POS_RATIO",
        "empty_image_negatives": "MODEL.FOCAL.MINING.EMPTY_IMAGE_NEGATIVES",
    }

    @configurable
    def __init__(
        self, *, neg_pos_ratio: float = 3.0, empty_image_negatives: int = 3, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.neg_pos_ratio = check_option("neg_pos_ratio", neg_pos_ratio, low=0, open_low=True)
        self.empty_image_negatives = check_count(
            "empty_image_negatives", empty_image_negatives, low=0
        )


def _boxes_of(boxes: Tensor) -> BoxesOf:
    return lambda image, anchor: boxes[image, anchor]
