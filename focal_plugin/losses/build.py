"""The registries of classification and box losses, and what every such loss has in common."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from ..registry import DENSE, ConfigurableModule, Place, Registry, build_named

CLS_LOSS_REGISTRY = Registry("CLS_LOSS")
CLS_LOSS_REGISTRY.__doc__ = """
Registry of classification losses, chosen by `MODEL.FOCAL.CLS_LOSS.NAME`.

A registered class is a :class:`ClassificationLoss`, constructed as `Loss(cfg)` or with its own
keyword arguments.
"""


BOX_LOSS_REGISTRY = Registry("BOX_LOSS")
BOX_LOSS_REGISTRY.__doc__ = """
Registry of box losses, chosen by `MODEL.FOCAL.BOX_LOSS.NAME`.

A registered class is a :class:`BoxLoss`, constructed as `Loss(cfg)` or with its own keyword
arguments.
"""

STOCK_BOX_LOSSES = {
    "smooth_l1": "SmoothL1Loss",
    "giou": "GIoULoss",
    "diou": "DIoULoss",
    "ciou": "CIoULoss",
}
"""What Detectron2's key `MODEL.RETINANET.BBOX_REG_LOSS_TYPE` calls them -> registered name."""


def build_cls_loss(cfg: CfgNode, place: Place = DENSE) -> ClassificationLoss:
    """
    Build the loss that `MODEL.FOCAL.CLS_LOSS.NAME` names.

    Args:
        place: where the name and the options are, if not in `MODEL.FOCAL`.

    Raises:
        KeyError: no loss has that name; the message lists the registered ones.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    losses: Iterable[tuple[str, type[ClassificationLoss]]] = CLS_LOSS_REGISTRY
    return build_named(losses, "MODEL.FOCAL.CLS_LOSS.NAME", cfg, place=place)


def build_box_loss(cfg: CfgNode, place: Place = DENSE) -> BoxLoss:
    """
    Build the loss that `MODEL.FOCAL.BOX_LOSS.NAME` names, or, where that is empty, the one that
    Detectron2's own `MODEL.RETINANET.BBOX_REG_LOSS_TYPE` names.

    Args:
        place: where the names and the options are, if not there.

    Raises:
        KeyError: no loss has that name; the message lists the registered ones.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    losses: Iterable[tuple[str, type[BoxLoss]]] = BOX_LOSS_REGISTRY
    if place.read(cfg, "MODEL.FOCAL.BOX_LOSS.NAME"):
        return build_named(losses, "MODEL.FOCAL.BOX_LOSS.NAME", cfg, place=place)
    by_name = dict(losses)
    stock = [(name, by_name[ours]) for name, ours in STOCK_BOX_LOSSES.items()]
    return build_named(stock, "MODEL.RETINANET.BBOX_REG_LOSS_TYPE", cfg, place=place)


def stock_box_loss(loss_type: str, *, smooth_l1_beta: float) -> BoxLoss:
    """
    Build the loss that a detector of Detectron2 uses for its ``box_reg_loss_type``.

    Args:
        loss_type: "smooth_l1", "giou", "diou" or "ciou".
        smooth_l1_beta: for "smooth_l1" only.
    """
    options = {"beta": smooth_l1_beta} if loss_type == "smooth_l1" else {}
    loss: type[BoxLoss] = BOX_LOSS_REGISTRY.get(STOCK_BOX_LOSSES[loss_type])
    return loss(**options)


class ClassificationLoss(ConfigurableModule):
    """
    Base of every classification loss: a sum over anchors and classes, in float32.

    A subclass implements :meth:`per_anchor`. The class attributes are what a detector has to know
    of a loss.
    """

    softmax: ClassVar[bool] = False
    """K+1 logits an anchor, background last, decoded by softmax."""
    needs_quality: ClassVar[bool] = False
    """Wants the IoU of each decoded box with its matched ground truth."""
    own_normalizer: ClassVar[bool] = False
    """Is normalised already: must not be divided by the number of positives."""
    any_layout: ClassVar[bool] = False
    """Reads logits (..., K) of any strides as they lie, so that nobody needs to copy them first."""
    decomposes: ClassVar[bool] = True
    """The sum over feature levels of the loss is the loss of all levels together."""
    stateful: ClassVar[bool] = False
    """Has buffers that are reduced over processes, saved in checkpoints and moved by a step."""

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        """
        The loss of each anchor, summed over classes only; what mining ranks by.

        Args:
            logits: (..., K), or (..., K+1) where :attr:`softmax`; any floating dtype, computed in
                float32.
            labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
            quality: (...), IoU in [0, 1] of the anchors with a class; only where
                :attr:`needs_quality`.

        Returns:
            float32 (...); 0 for ignored anchors.
        """
        raise NotImplementedError

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """What a :attr:`stateful` loss learns from a step: moves its buffers, by no gradient."""

    def observe(self, logits: Tensor, labels: Tensor) -> None:
        """:meth:`update`, in training mode; what ends every forward, and every step without one."""
        if self.training:
            self.update(logits, labels)

    @torch.jit.unused  # training only: keeps the exported detector the stock one
    def forward(self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None) -> Tensor:
        """
        Same arguments as :meth:`per_anchor`, but summed over all anchors that are not ignored. It
        ends with :meth:`observe`.

        Returns:
            float32 scalar; 0 with a graph if no anchor is left.
        """
        loss = self.per_anchor(logits, labels, quality=quality).sum()
        self.observe(logits, labels)
        return loss

    if TYPE_CHECKING:  # nn.Module declares its call as Callable[..., Any]
        __call__ = forward

    @torch.jit.unused  # training only: keeps the exported detector the stock one
    def of_levels(
        self,
        logits: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        quality: Sequence[Tensor] | None = None,
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        """
        Same arguments as :meth:`forward`, but of several tensors, the levels of a feature pyramid.

        Args:
            scale: what the sum is multiplied by, a number or a scalar tensor; a constant.

        Returns:
            float32 scalar.
        """
        qualities: Sequence[Tensor | None] = quality or [None] * len(logits)
        levels = zip(logits, labels, qualities, strict=True)
        losses = [self(x, y, quality=z) for x, y, z in levels]
        return functools.reduce(torch.add, losses) * scale


class BoxLoss(ConfigurableModule):
    """
    Base of every box loss: a sum over positive anchors, in float32.

    A subclass implements :meth:`per_box`.
    """

    on_boxes: ClassVar[bool] = False
    """Compares decoded boxes (x1, y1, x2, y2) in pixels, not regression deltas."""
    own_normalizer: ClassVar[bool] = False
    """Is normalised already: must not be divided by the number of positives."""
    stateful: ClassVar[bool] = False
    """Has buffers that are reduced over processes, saved in checkpoints and moved by a step."""

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        """
        The loss of each box, summed over its coordinates.

        Args:
            pred: (V, 4), deltas, or boxes where :attr:`on_boxes`; computed in float32.
            target: (V, 4), of the same kind.

        Returns:
            float32 (V,).
        """
        raise NotImplementedError

    def update(self, pred: Tensor, target: Tensor) -> None:
        """What a :attr:`stateful` loss learns from a step: moves its buffers, by no gradient."""

    def observe(self, pred: Tensor, target: Tensor) -> None:
        """:meth:`update`, in training mode; what ends every forward, and every step without one."""
        if self.training:
            self.update(pred, target)

    @torch.jit.unused  # training only: keeps the exported detector the stock one
    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """
        Same arguments as :meth:`per_box`, but summed over all boxes. It ends with :meth:`observe`.

        Returns:
            float32 scalar; 0 with a graph if there is no box.
        """
        loss = self.per_box(pred, target).sum()
        self.observe(pred, target)
        return loss

    if TYPE_CHECKING:  # nn.Module declares its call as Callable[..., Any]
        __call__ = forward
