"""
Analysis of a classification loss and its gradient: positives or negatives, easy or hard, by level.

A positive is an anchor with a class, a negative is a background anchor. Ignored anchors are
neither. A negative is easy if every class has a probability below :data:`EASY_PROBABILITY`,
whatever its loss.

Shape shorthand:
    N: number of images
    Ri: anchors of feature level i
    R: anchors per image over all levels, the sum of Ri
    K: number of classes
    L: feature levels
    B: bins of the histogram, len(GRADIENT_EDGES) - 1
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..losses import ClassificationLoss
from ..losses.base import distribute_by_gradient

EASY_PROBABILITY = 0.1
"""Probability below which every class of an easy negative lies, so that p_t > 0.9."""

GRADIENT_EDGES = np.concatenate([[0.0], np.logspace(-12, 1, 53)])
"""
Edges of the bins of gradient norms, four bins per decade. The first bin, up to 1e-12, also holds
the zeros, and the last bin everything above it. The edges are fixed, so that histograms of
different batches and runs can be added.
"""


class AnchorView(NamedTuple):
    """Loss, gradient and probability of each anchor of a batch."""

    loss: Tensor
    """
    (N, R), float32, undivided; 0 where ignored. A loss that is only a sum is distributed by the
    gradient, see :func:`~focal_plugin.losses.base.distribute_by_gradient`.
    """
    divided: Tensor
    """(N, R), float32, the loss over the divisor. Its sum is the loss of the batch."""
    gradient: Tensor
    """(N, R, K), float32, |d loss of the batch / d logit|."""
    probability: Tensor
    """(N, R, K), float32, as the detector decodes the logits."""


def view_anchors(
    cls_loss: ClassificationLoss,
    logits: Sequence[Tensor],
    labels: Tensor,
    *,
    divisors: Tensor,
    quality: Tensor | None = None,
    weights: Tensor | None = None,
    box_loss: Tensor | None = None,
) -> AnchorView:
    """
    Compute loss, gradient and probability of each anchor, without side effects.

    The state of the loss, all gradients and the random generators stay unchanged.

    Args:
        cls_loss: the loss in its state at this batch.
        logits: one tensor per level, (N, Ri, K), or (N, Ri, K+1) for a softmax loss.
        labels: (N, R), integer in {-1 (ignored), 0..K-1, K (background)}.
        divisors: (N,), or (1,) for all images; unused by a loss that is already normalized.
        quality: (N, R), for a loss that requires it.
        weights: (N, R), factors of the losses; None: 1 each.
        box_loss: (N, R), 0 for anchors without one, for a loss that requires it.
    """
    with torch.enable_grad():
        # float32 before the graph begins: a half-precision gradient would underflow
        joined = torch.cat([x.detach().float() for x in logits], dim=1).requires_grad_()
        if cls_loss.has_rows:
            loss = _per_anchor(cls_loss, joined, labels, quality, [x.shape[1] for x in logits])
            if weights is not None:
                loss = loss * weights
            divided = loss if cls_loss.own_normalizer else loss / divisors.unsqueeze(1)
            (gradient,) = torch.autograd.grad(divided.sum(), joined)
        else:
            divisor = 1 if cls_loss.own_normalizer else divisors[0]
            total = _total(cls_loss, joined, labels, quality, box_loss) / divisor
            (gradient,) = torch.autograd.grad(total, joined)
            divided = distribute_by_gradient(total, gradient)
            loss = divided * divisor
    joined = joined.detach()
    if cls_loss.softmax:
        probability = joined.softmax(-1)
    else:
        probability = cls_loss.sigmoid_logits(joined).sigmoid()
    num_classes = joined.shape[-1] - cls_loss.softmax  # without the logit of the background
    return AnchorView(
        loss=loss.detach(),
        divided=divided.detach(),
        gradient=gradient[..., :num_classes].abs(),
        probability=probability[..., :num_classes],
    )


def _per_anchor(
    cls_loss: ClassificationLoss,
    logits: Tensor,
    labels: Tensor,
    quality: Tensor | None,
    sizes: Sequence[int],
) -> Tensor:
    """Return the loss of each anchor, (N, R), from logits (N, R, K)."""
    if not cls_loss.decomposes:
        return cls_loss.per_anchor(logits, labels, quality=quality)
    qualities = [None] * len(sizes) if quality is None else quality.split(sizes, dim=1)
    levels = zip(logits.split(sizes, 1), labels.split(sizes, 1), qualities, strict=True)
    return torch.cat([cls_loss.per_anchor(x, y, quality=q) for x, y, q in levels], dim=1)


def _total(
    cls_loss: ClassificationLoss,
    logits: Tensor,
    labels: Tensor,
    quality: Tensor | None,
    box_loss: Tensor | None,
) -> Tensor:
    """Return the loss of all anchors as a scalar, without an update of its state."""
    cls_loss = copy.deepcopy(cls_loss).eval()
    if cls_loss.needs_box_loss and box_loss is not None:
        return cls_loss.of_both([logits], [labels], box_loss=[box_loss])[0]
    return cls_loss(logits, labels, quality=quality)


@dataclass(frozen=True)
class Tally:
    """
    Sums over the anchors of a batch. The tallies of several batches can be added.

    Attributes:
        by_level: name -> float64 (L,), sums over the anchors of each level:
            num_pos, num_neg: positives and negatives, before mining.
            kept_pos, kept_neg: positives and negatives kept by mining.
            loss_pos, loss_neg: the classification loss, undivided.
            divided_pos, divided_neg: the classification loss over the divisor of the batch.
            gradient_pos, gradient_neg: |d divided loss / d logit| over all K logits.
            easy_num, easy_divided, easy_gradient: the same sums over the easy negatives only.
            probability: the mean probability over the K classes, summed over all negatives.
            box_loss, box_divided: the box loss of the positives that contribute to it.
        histogram_pos: int64 (B,), histogram of the gradient norms in bins of
            :data:`GRADIENT_EDGES`, over positive elements: an anchor with the class of its label.
        histogram_neg: int64 (B,), histogram over all other elements: a negative with any class, or
            a positive with another class.
        batches: number of batches in these sums.
    """

    by_level: Mapping[str, np.ndarray]
    histogram_pos: np.ndarray
    histogram_neg: np.ndarray
    batches: int = 1

    def total(self, name: str) -> float:
        """Return the sum over all levels."""
        return float(self.by_level[name].sum())

    @property
    def divided(self) -> float:
        """Classification loss of all anchors over the divisors."""
        return self.total("divided_pos") + self.total("divided_neg")

    @property
    def easy_share(self) -> float:
        """Share of the negatives that are easy; 0 if there are none."""
        return _share(self.total("easy_num"), self.total("num_neg"))

    @property
    def easy_loss_share(self) -> float:
        """Share of the classification loss from easy negatives; 0 if the loss is 0."""
        return _share(self.total("easy_divided"), self.divided)

    @property
    def easy_gradient_share(self) -> float:
        """Share of the sum of gradient norms from easy negatives; 0 if the sum is 0."""
        both = self.total("gradient_pos") + self.total("gradient_neg")
        return _share(self.total("easy_gradient"), both)


def add_tallies(tallies: Iterable[Tally]) -> Tally:
    """
    Add the tallies of several batches.

    Raises:
        ValueError: there is no tally.
    """
    tallies = list(tallies)
    if not tallies:
        raise ValueError("there is no tally to add")
    return Tally(
        by_level={name: _sum(t.by_level[name] for t in tallies) for name in tallies[0].by_level},
        histogram_pos=_sum(t.histogram_pos for t in tallies),
        histogram_neg=_sum(t.histogram_neg for t in tallies),
        batches=sum(t.batches for t in tallies),
    )


def _sum(counts: Iterable[np.ndarray]) -> np.ndarray:
    return functools.reduce(operator.add, counts)


@torch.no_grad()
def tally_anchors(
    view: AnchorView,
    labels: Tensor,
    kept_labels: Tensor,
    *,
    sizes: Sequence[int],
    box_loss: Tensor | None = None,
    box_divisors: Tensor | None = None,
) -> Tally:
    """
    Sum the view of a batch over the anchors of each level.

    Args:
        view: the view for ``kept_labels``.
        labels: (N, R), integer in {-1 (ignored), 0..K-1, K (background)}.
        kept_labels: (N, R), ``labels`` with -1 for the anchors that mining drops.
        sizes: Ri of each level.
        box_loss: (N, R), undivided, 0 for anchors without a box loss. None if it is unknown, and
            then it counts as 0 everywhere.
        box_divisors: (N,), or (1,). None if the box loss is already normalized.
    """
    num_classes = view.gradient.shape[-1]
    positive = (labels >= 0) & (labels != num_classes)
    negative = labels == num_classes
    easy = negative & (view.probability.amax(-1) < EASY_PROBABILITY)
    gradient = view.gradient.sum(-1)
    box_loss = torch.zeros_like(view.loss) if box_loss is None else box_loss
    box_divided = box_loss if box_divisors is None else box_loss / box_divisors.unsqueeze(1)
    kept = kept_labels >= 0
    of_anchors = {
        "num_pos": positive,
        "num_neg": negative,
        "kept_pos": positive & kept,
        "kept_neg": negative & kept,
        "loss_pos": view.loss * positive,
        "loss_neg": view.loss * negative,
        "divided_pos": view.divided * positive,
        "divided_neg": view.divided * negative,
        "gradient_pos": gradient * positive,
        "gradient_neg": gradient * negative,
        "easy_num": easy,
        "easy_divided": view.divided * easy,
        "easy_gradient": gradient * easy,
        "probability": view.probability.mean(-1).masked_fill(~negative, 0.0),
        "box_loss": box_loss,
        "box_divided": box_divided,
    }
    of_columns = torch.stack([x.sum(0, dtype=torch.float64) for x in of_anchors.values()])
    of_levels = torch.stack([x.sum(1) for x in of_columns.split(list(sizes), dim=1)], dim=1)
    histograms = _histograms(view.gradient, labels, num_classes)
    return Tally(
        by_level=dict(zip(of_anchors, of_levels.cpu().numpy(), strict=True)),
        histogram_pos=histograms[1],
        histogram_neg=histograms[0],
    )


def _histograms(gradient: Tensor, labels: Tensor, num_classes: int) -> np.ndarray:
    """Return (2, B) counts: negative elements in row 0, positive elements in row 1."""
    inner = torch.as_tensor(GRADIENT_EDGES[1:-1], dtype=gradient.dtype, device=gradient.device)
    bins = len(GRADIENT_EDGES) - 1
    valid = labels >= 0
    index = torch.bucketize(gradient[valid], inner, right=True)  # (V, K)
    of_class = labels[valid].unsqueeze(1) == torch.arange(num_classes, device=labels.device)
    counts = torch.bincount((index + bins * of_class).flatten(), minlength=2 * bins)
    return counts.view(2, bins).cpu().numpy()


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
