"""
The registry of miners, and what every miner has in common.

Shape shorthand:
    N: number of images
    R: anchors per image over all levels
    K: number of classes
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from ..checks import check_choice
from ..registry import DENSE, ConfigurableModule, Place, Registry, build_named, configurable
from .checks import check_inputs, check_num_classes
from .selection import positive_mask

MINER_REGISTRY = Registry("MINER")
MINER_REGISTRY.__doc__ = """
Registry of hard example miners, chosen by `MODEL.FOCAL.MINING.NAME`.

A registered class is a :class:`Miner`, constructed as `Miner(cfg)` or with its own keyword
arguments.
"""


BoxesOf = Callable[[int, Tensor], Tensor]
"""The boxes of some anchors of one image: its number, indices (V,) -> (V, 4), XYXY."""


def build_miner(cfg: CfgNode, place: Place = DENSE) -> Miner | None:
    """
    Build the miner that `MODEL.FOCAL.MINING.NAME` names.

    Args:
        place: where the name and the options are, if not in `MODEL.FOCAL.MINING`.

    Returns:
        None where it is empty: every anchor counts.

    Raises:
        KeyError: no miner has that name; the message lists the registered ones.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    if not place.read(cfg, "MODEL.FOCAL.MINING.NAME"):
        return None
    miners: Iterable[tuple[str, type[Miner]]] = MINER_REGISTRY
    return build_named(miners, "MODEL.FOCAL.MINING.NAME", cfg, place=place)


class Miner(ConfigurableModule):
    """
    Base of every miner: which anchors the classification loss is summed over.

    A subclass implements :meth:`select`, and :meth:`candidates` where not every anchor competes.
    The class attribute and the options here are what a detector has to know of a miner.

    Attributes:
        scope: "image", or "batch": the anchors of all N images compete for N times the quotas of
            one, and "an image without positives" is a batch without any.
        rank_by: the loss to rank by: "cls", or "cls_and_box".
        box_loss_on: the box loss is summed over "all" positives, or over the "kept" ones.
        divide_by: the classification loss is divided by the "normalizer", or by the number of
            anchors "kept".
    """

    needs_boxes: ClassVar[bool] = False
    """Wants a box of each anchor."""
    nms_boxes = "decoded"
    """The boxes to be given: "decoded" from the predicted deltas, or the "anchors"."""

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
        Args:
            num_classes: K, the label of the background. None: the largest label present, which is
                right where the batch has a background anchor.
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
        Args:
            loss: (N, R), any floating dtype; compared in float32.
            labels: (N, R), integer in {-1 (ignored), 0..K-1, K (background)}.
            boxes: (N, R, 4), XYXY, or what gives them, which is then asked for no more than are
                compared; None will do unless :attr:`needs_boxes`.

        Returns:
            bool (N, R), false for every ignored anchor. Of equal losses the lower index is kept.

        Raises:
            ValueError: shapes that do not fit, no boxes where they are needed, or (looked for on
                the CPU only) a label outside -1..K.
        """
        given = boxes if isinstance(boxes, Tensor) else None
        check_inputs(loss, labels, given, num_classes=self.num_classes)
        boxes_of = _boxes_of(boxes) if isinstance(boxes, Tensor) else boxes
        if self.needs_boxes and boxes_of is None:
            raise ValueError(f"{type(self).__name__} needs boxes (N, R, 4), got None")
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
        Same arguments as :meth:`forward`.

        Returns:
            bool (N, R), the anchors that compete: here all that are not ignored.
        """
        return labels != -1

    def select(
        self, loss: Tensor, candidates: Tensor, positives: Tensor, *, num_images: int
    ) -> Tensor:
        """
        Choose among anchors that compete with each other.

        Args:
            loss: (R,), or (N * R,) of a whole batch.
            candidates: bool, the same shape: those to choose from.
            positives: bool, the same shape: those with an object.
            num_images: whose quotas are to be had: 1 or N.

        Returns:
            bool, the same shape.
        """
        raise NotImplementedError


def _boxes_of(boxes: Tensor) -> BoxesOf:
    return lambda image, anchors: boxes[image][anchors]
