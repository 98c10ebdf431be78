"""Base classes of classification and box losses."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import ConfigurableModule


class BoxTransform(Protocol):
    """Conversion between deltas and boxes, such as Detectron2's `Box2BoxTransform`."""

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Return the deltas from the first to the second boxes, (V, 4) each."""
        ...

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Return the boxes at some deltas from other boxes, (V, 4) each."""
        ...


class ClassificationLoss(ConfigurableModule):
    """
    Base class of every classification loss: a sum over anchors and classes, in float32.

    A subclass implements :meth:`per_anchor`. The class attributes tell a detector how to use the
    loss.
    """

    __constants__: ClassVar[list[str]] = ["softmax"]  # TorchScript skips other class attributes
    __jit_ignored_attributes__: ClassVar[list[str]] = ["own_normalizer"]

    softmax: ClassVar[bool] = False
    """True for K+1 logits per anchor, background last, decoded by softmax."""
    needs_quality: ClassVar[bool] = False
    """True if the loss requires the IoU of each decoded box with its matched ground truth."""
    needs_box_loss: ClassVar[bool] = False
    """True if the loss also weighs the box losses of the positives, see :meth:`of_both`."""
    own_normalizer: bool = False
    """True if the loss is already normalized and must not be divided by the number of positives."""
    any_layout: ClassVar[bool] = False
    """True if the loss reads logits (..., K) of any strides in place, without a copy."""
    decomposes: ClassVar[bool] = True
    """
    True if the loss of all feature levels together is the sum of the losses per level.

    Otherwise the levels are joined to one; or, if the loss takes :attr:`any_layout`, given
    together to :meth:`of_levels`, :meth:`per_anchor_of_levels` and :meth:`update_levels`.
    """
    stateful: ClassVar[bool] = False
    """True if the loss has buffers: updated by each step, reduced over processes, checkpointed."""
    counts_images: ClassVar[bool] = False
    """True if a sample of a class is an image that contains it, not an object."""
    has_rows: bool = True
    """
    False if only the sum is available, so that nothing can rank anchors by it. Records then use
    :func:`distribute_by_gradient`.
    """

    def check(self, num_classes: int) -> None:
        """
        Check that the loss computes what it says, for K = ``num_classes``.

        Raises:
            ValueError: it does not.
        """

    def num_columns(self, num_classes: int) -> int:
        """
        Return the number of logits of an anchor or RoI: K, or K+1 if :attr:`softmax`.

        Only box heads provide columns beyond these, see :func:`require_dense_columns`.
        """
        return num_classes + self.softmax

    def probabilities(self, logits: Tensor) -> Tensor:
        """
        Predict the probabilities of RoIs. It must support TorchScript.

        Args:
            logits: (R, columns), see :meth:`num_columns`.

        Returns:
            (R, K+1), of each class and, in the last column, of the background.
        """
        if self.softmax:
            return softmax_probabilities(logits)
        return sigmoid_probabilities(self.sigmoid_logits(logits))

    @staticmethod
    def sigmoid_logits(logits: Tensor) -> Tensor:
        """
        Return the logits whose sigmoids are the scores of the classes, unless :attr:`softmax`.

        A loss of other probabilities overrides it, and :meth:`bias_of`. It must support TorchScript
        and have no options, because a RetinaNet head decodes without the loss.

        Args:
            logits: (..., columns), see :meth:`num_columns`; or any shape, if there are K columns.

        Returns:
            (..., K), or the shape of the logits.
        """
        return logits

    @staticmethod
    def bias_of(prior_prob: float) -> float:
        """Return the logit of a class whose score is ``prior_prob``, in (0, 1)."""
        return -math.log((1 - prior_prob) / prior_prob)

    def prior_biases(self, num_classes: int, prior: float) -> list[float]:
        """
        Return the biases with which a new box head predicts "some object" with probability prior.

            sigmoid:  b_k = -log((1 - prior) / prior)         for each class k
            softmax:  b_K = log(K * (1 - prior) / prior)      for the background, else 0

        Args:
            num_classes: K.
            prior: in (0, 1).

        Returns:
            one bias for each of :meth:`num_columns` columns.
        """
        if self.softmax:
            log_odds_of_none = math.log((1 - prior) / prior)
            return [0.0] * num_classes + [log_odds_of_none + math.log(num_classes)]
        return [self.bias_of(prior)] * num_classes

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        """
        Compute the loss of each anchor, summed over classes only. Mining ranks anchors by it.

        Args:
            logits: (..., K), or (..., K+1) if :attr:`softmax`; any floating dtype, computed in
                float32.
            labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
            quality: (...), IoU in [0, 1] of the anchors with a class; only if
                :attr:`needs_quality`.

        Returns:
            float32 (...); 0 for ignored anchors.
        """
        raise NotImplementedError

    def per_anchor_of_levels(
        self,
        logits: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        quality: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """Compute :meth:`per_anchor` of several tensors, the levels of a feature pyramid."""
        qualities: Sequence[Tensor | None] = quality or [None] * len(logits)
        levels = zip(logits, labels, qualities, strict=True)
        return [self.per_anchor(x, y, quality=z) for x, y, z in levels]

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Update the buffers of a :attr:`stateful` loss after a step, without gradients."""

    def update_levels(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
        """Update the buffers like :meth:`update`, after a step of several tensors."""
        for level in zip(logits, labels, strict=True):
            self.update(*level)

    def observe(self, logits: Tensor, labels: Tensor) -> None:
        """Call :meth:`update` in training mode. Every training step ends with this call."""
        if self.training:
            self.update(logits, labels)

    def observe_levels(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
        """Call :meth:`update_levels` in training mode, at the end of a step of several tensors."""
        if self.training:
            self.update_levels(logits, labels)

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None) -> Tensor:
        """
        Compute the loss, summed over all anchors that are not ignored, and call :meth:`observe`.

        The arguments are those of :meth:`per_anchor`.

        Returns:
            float32 scalar; a differentiable 0 if every anchor is ignored.
        """
        return self.per_anchor_of_step(logits, labels, quality=quality).sum()

    if TYPE_CHECKING:  # nn.Module declares its call as Callable[..., Any]
        __call__ = forward

    def per_anchor_of_step(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        """Compute :meth:`per_anchor` of a step, and call :meth:`observe`."""
        loss = self.per_anchor(logits, labels, quality=quality)
        self.observe(logits, labels)
        return loss

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def of_levels(
        self,
        logits: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        quality: Sequence[Tensor] | None = None,
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        """
        Compute the loss of several tensors, the levels of a feature pyramid.

        The arguments are sequences of those of :meth:`forward`.

        Args:
            scale: factor of the sum, a number or a scalar tensor; a constant.

        Returns:
            float32 scalar.
        """
        qualities: Sequence[Tensor | None] = quality or [None] * len(logits)
        levels = zip(logits, labels, qualities, strict=True)
        losses = [self(x, y, quality=z) for x, y, z in levels]
        return functools.reduce(torch.add, losses) * scale

    def of_both(
        self, logits: Sequence[Tensor], labels: Sequence[Tensor], *, box_loss: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """
        Compute the classification loss and the box loss of several levels together.

        A loss with :attr:`needs_box_loss` implements it. Both results are normalized.

        Args:
            logits, labels: see :meth:`of_levels`.
            box_loss: one per level, (...), the box loss of each positive, with its graph; 0 for
                other anchors.

        Returns:
            both losses, float32 scalars.
        """
        raise NotImplementedError


class BoxLoss(ConfigurableModule):
    """
    Base class of every box loss: a sum over positive anchors, in float32.

    A subclass implements :meth:`per_box`.
    """

    on_boxes: ClassVar[bool] = False
    """True if the loss compares decoded boxes (x1, y1, x2, y2) in pixels, not regression deltas."""
    own_normalizer: ClassVar[bool] = False
    """True if the loss is already normalized and must not be divided by the number of positives."""
    stateful: ClassVar[bool] = False
    """True if the loss has buffers: updated by each step, reduced over processes, checkpointed."""

    has_rows: bool = True
    """False if only the sum is available, so that nothing can rank or record boxes by it."""

    def check(self) -> None:
        """
        Check that the loss computes what it says.

        Raises:
            ValueError: it does not.
        """

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        """
        Compute the loss of each box, summed over its coordinates.

        Args:
            pred: (V, 4), deltas, or boxes if :attr:`on_boxes`; computed in float32.
            target: (V, 4), deltas or boxes like ``pred``.

        Returns:
            float32 (V,).
        """
        raise NotImplementedError

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Update the buffers of a :attr:`stateful` loss after a step, without gradients."""

    def observe(self, pred: Tensor, target: Tensor) -> None:
        """Call :meth:`update` in training mode. Every training step ends with this call."""
        if self.training:
            self.update(pred, target)

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """
        Compute the loss, summed over all boxes, and call :meth:`observe`.

        The arguments are those of :meth:`per_box`.

        Returns:
            float32 scalar; a differentiable 0 if there is no box.
        """
        loss = self.per_box(pred, target).sum()
        self.observe(pred, target)
        return loss

    if TYPE_CHECKING:  # nn.Module declares its call as Callable[..., Any]
        __call__ = forward


class BagLoss(ConfigurableModule):
    """
    Base class of the losses of classes and boxes that need the objects, but no label per anchor.

    A subclass implements :meth:`losses`. Such a loss replaces the classification loss, the box
    loss and the assigner of a RetinaNet.
    """

    def losses(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Tensor,
        gt_boxes: Sequence[Tensor],
        gt_classes: Sequence[Tensor],
        *,
        transform: BoxTransform,
        ignored: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """
        Compute the losses of a batch, already normalized.

        Args:
            logits: one tensor for each level, (N, ..., K), in any layout.
            deltas: the same with 4 for K.
            anchors: (R, 4), XYXY.
            gt_boxes: one for each image, (M, 4), XYXY; M may be 0.
            gt_classes: one for each image, (M,), int64, in 0..K-1.
            transform: the conversion between deltas and boxes.
            ignored: bool (N, R), anchors that are no background; None: no anchor.

        Returns:
            name -> scalar; differentiable zeros without anything to sum.
        """
        raise NotImplementedError

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Call :meth:`losses`."""
        return self.losses(*args, **kwargs)


def softmax_probabilities(logits: Tensor) -> Tensor:
    """Return the softmax of (R, K+1) logits, the background last."""
    return F.softmax(logits, dim=-1)


def sigmoid_probabilities(logits: Tensor) -> Tensor:
    """Return the sigmoid of (R, K) logits and, in a last column, the probability of no class."""
    none_of_them = F.logsigmoid(-logits).sum(dim=1, keepdim=True).exp()
    return torch.cat([logits.sigmoid(), none_of_them], dim=1)


def require_dense_columns(loss: ClassificationLoss) -> None:
    """
    Raise an error if a loss reads columns that only the classifier of a box head has.

    Raises:
        ValueError: it does.
    """
    if loss.num_columns(1) != 1 + loss.softmax:
        raise ValueError(
            f"{type(loss).__name__} is a loss of RoI heads: it reads {loss.num_columns(80)} logits "
            "for 80 classes. Name it in MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME"
        )


def require_decoder(loss: ClassificationLoss, decoder: nn.Module) -> None:
    """
    Raise an error if a head does not decode logits as the loss does.

    A head has the function that decodes them as its attribute `sigmoid_logits`; by default it is
    that of :class:`ClassificationLoss`.

    Raises:
        ValueError: it decodes them in another way.
    """
    decodes = getattr(decoder, "sigmoid_logits", ClassificationLoss.sigmoid_logits)
    if decodes is not loss.sigmoid_logits:
        raise ValueError(
            f"the head {type(decoder).__name__} does not decode the logits of "
            f"{type(loss).__name__}: FocalRetinaNetHead and RoI heads do"
        )


def distribute_by_gradient(loss: Tensor, gradient: Tensor) -> Tensor:
    """
    Distribute a loss without :attr:`~ClassificationLoss.has_rows` over its anchors, for records.

        loss of an anchor = loss * its sum of |gradient| / the sum of |gradient| of all anchors

    Args:
        loss: scalar.
        gradient: (..., K), of the loss with respect to the logits.

    Returns:
        (...), its sum is the loss. If the gradient is 0 everywhere, all anchors have the same part.
    """
    norms = gradient.abs().sum(dim=-1)
    norms = torch.where(norms.sum() == 0, torch.ones_like(norms), norms)
    return loss * norms / norms.sum()


def require_rows(*losses: ClassificationLoss | BoxLoss) -> None:
    """
    Raise an error if a loss lacks the loss of each row, for a detector that mines or divides by it.

    Raises:
        ValueError: a loss is available as a sum only.
    """
    for loss in losses:
        if loss.has_rows:
            continue
        name = type(loss).__name__
        if getattr(type(loss), "per_anchor", None) is ClassificationLoss.per_anchor:
            raise ValueError(
                f"{name} compares all logits with each other, so no anchor has a loss of its own "
                "for mining and divisors per image: turn them off, or choose another loss"
            )
        raise ValueError(
            f"{name} returns only a sum, but mining and divisors per image need one loss per row: "
            "let its forward return shape (V,)"
        )
