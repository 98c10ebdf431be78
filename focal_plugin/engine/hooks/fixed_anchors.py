"""
Dense loss of a detector on fixed images and a fixed sample of their anchors.

The detector stays unchanged, and snapshots of different runs show the same anchors.

Shape shorthand:
    N: number of images
    R: anchors per image over all levels
    V: positive anchors in the batch
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy as np
import torch
from detectron2.modeling import RetinaNet
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import ImageList
from torch import nn

from ...diagnostics.analysis import (
    GRADIENT_EDGES,
    AnchorView,
    Tally,
    add_tallies,
    tally_anchors,
    view_anchors,
)
from ...diagnostics.snapshot import MAX_SAMPLE, Snapshot
from ...modeling.dense_losses import DenseLossMixin, DenseStep
from .fixed_images import SEED, batches_of, measuring


def dense_parts(model: nn.Module) -> dict[str, DenseLossMixin]:
    """Return the parts of a detector with dense losses, by name, whose boxes have a loss each."""
    parts = {"retinanet": model, "rpn": getattr(model, "proposal_generator", None)}
    return {
        name: part
        for name, part in parts.items()
        if isinstance(part, DenseLossMixin)
        and part.box_loss.has_rows
        and getattr(part, "bag_loss", None) is None
    }


def view_step(part: DenseLossMixin, step: DenseStep) -> tuple[AnchorView, Tally]:
    """Return the anchor view and the tally of a step in the current state of the losses."""
    with torch.no_grad():
        per_box = part.box_loss.per_box(*step.box_pairs)
        if step.box_weights is not None:
            per_box = per_box * step.box_weights
        box_loss = torch.zeros_like(step.boxed, dtype=per_box.dtype)
        box_loss[step.boxed] = per_box
    view = view_anchors(
        part.cls_loss,
        step.logits,
        step.kept_labels,
        divisors=step.cls_divisors,
        quality=step.quality,
        weights=step.cls_weights,
        box_loss=box_loss,
    )
    tally = tally_anchors(
        view,
        step.labels,
        step.kept_labels,
        sizes=[x.shape[1] for x in step.logits],
        box_loss=box_loss,
        box_divisors=None if part.box_loss.own_normalizer else step.box_divisors,
    )
    return view, tally


def level_names(part: DenseLossMixin) -> list[str]:
    """Return the names of the feature levels, such as "p3"."""
    if isinstance(part, RPN):
        return list(part.in_features)
    assert isinstance(part, RetinaNet)
    return list(part.head_in_features)


def divisor_of(part: DenseLossMixin, step: DenseStep) -> float:
    """Return the normalizer of the classification loss (mean over images), 1 if it is applied."""
    return 1.0 if part.cls_loss.own_normalizer else step.cls_divisors.mean().item()


class _Seen(NamedTuple):
    """Data kept from one batch."""

    tally: Tally
    divisor: float
    anchors: np.ndarray  # (R, 4)
    labels: np.ndarray  # (N, R)
    loss: np.ndarray  # (N, R)


def take_snapshots(
    model: nn.Module,
    images: Sequence[dict[str, Any]],
    *,
    iteration: int,
    batch_size: int,
) -> dict[str, Snapshot]:
    """
    Take a snapshot of each dense part.

    No weight, buffer, mode, gradient or random generator changes. With several processes all of
    them must call this function, because a loss may sum over processes.

    Args:
        images: at least one, the same in every run.
        iteration: number of training steps of the model so far.
        batch_size: images per batch; "divided" numbers refer to such a step.
    """
    parts = dense_parts(model)
    seen: dict[str, list[_Seen]] = {name: [] for name in parts}

    def observer_of(name: str, part: DenseLossMixin) -> Callable[[DenseStep], None]:
        return lambda step: seen[name].append(_see(part, step))

    for batch in batches_of(images, batch_size):
        with measuring(model), torch.no_grad():
            for name, part in parts.items():
                part.observer = observer_of(name, part)
            try:
                _forward(model, batch)
            finally:
                for part in parts.values():
                    part.observer = None
    return {
        name: _snapshot(name, part, seen[name], images, iteration=iteration)
        for name, part in parts.items()
    }


def _forward(model: nn.Module, batch: Sequence[dict[str, Any]]) -> None:
    """Run the model as in training up to the dense losses."""
    if isinstance(model, DenseLossMixin):
        model(batch)
        return
    assert _proposes(model)
    generator = model.proposal_generator
    images = model.preprocess_image(batch)
    instances = [x["instances"].to(images.tensor.device) for x in batch]
    generator(images, model.backbone(images.tensor), instances)


class _ProposingModel(Protocol):
    """A detector whose dense part is its proposal generator."""

    proposal_generator: nn.Module
    backbone: nn.Module

    def preprocess_image(self, batched_inputs: Sequence[dict[str, Any]], /) -> ImageList: ...


def _proposes(model: nn.Module) -> TypeGuard[_ProposingModel]:
    return hasattr(model, "proposal_generator")


def _see(part: DenseLossMixin, step: DenseStep) -> _Seen:
    view, tally = view_step(part, step)
    return _Seen(
        tally=tally,
        divisor=divisor_of(part, step),
        anchors=step.anchors.cpu().numpy(),
        labels=step.labels.cpu().numpy(),
        loss=view.loss.cpu().numpy(),
    )


def _snapshot(
    name: str,
    part: DenseLossMixin,
    seen: Sequence[_Seen],
    images: Sequence[dict[str, Any]],
    *,
    iteration: int,
) -> Snapshot:
    tally = add_tallies(batch.tally for batch in seen)
    total, by_level = tally.total, tally.by_level
    num_classes = _num_classes(part)
    labels = np.concatenate([batch.labels.ravel() for batch in seen])
    loss = np.concatenate([batch.loss.ravel() for batch in seen])
    generator = np.random.default_rng(SEED)
    positives = _draw(np.flatnonzero((labels >= 0) & (labels < num_classes)), generator)
    negatives = _draw(np.flatnonzero(labels == num_classes), generator)
    return Snapshot(
        iteration=iteration,
        part=name,
        loss=type(part.cls_loss).__name__,
        options=part.cls_loss.extra_repr(),
        miner="" if part.miner is None else type(part.miner).__name__,
        num_classes=num_classes,
        num_images=len(images),
        num_anchors=int((labels >= 0).sum()),
        num_pos=int(total("num_pos")),
        num_neg=int(total("num_neg")),
        kept_pos=int(total("kept_pos")),
        kept_neg=int(total("kept_neg")),
        anchors_digest=_digest(seen, images, np.sort(np.concatenate([positives, negatives]))),
        loss_pos=total("loss_pos"),
        loss_neg=total("loss_neg"),
        divided_pos=total("divided_pos") / tally.batches,
        divided_neg=total("divided_neg") / tally.batches,
        divisor=float(np.mean([batch.divisor for batch in seen])),
        box_loss=total("box_loss"),
        box_divided=total("box_divided") / tally.batches,
        mean_probability=total("probability") / max(total("num_neg"), 1),
        easy_share=tally.easy_share,
        easy_loss_share=tally.easy_loss_share,
        easy_gradient_share=tally.easy_gradient_share,
        gradient_pos=total("gradient_pos") / tally.batches,
        gradient_neg=total("gradient_neg") / tally.batches,
        levels=np.array(level_names(part)),
        level_num_pos=by_level["num_pos"],
        level_num_neg=by_level["num_neg"],
        level_loss_pos=by_level["loss_pos"],
        level_loss_neg=by_level["loss_neg"],
        level_divided_pos=by_level["divided_pos"] / tally.batches,
        level_divided_neg=by_level["divided_neg"] / tally.batches,
        level_box_loss=by_level["box_loss"],
        sample_pos=np.sort(loss[positives]),
        sample_neg=np.sort(loss[negatives]),
        gradient_edges=GRADIENT_EDGES,
        gradient_counts_pos=tally.histogram_pos,
        gradient_counts_neg=tally.histogram_neg,
        parameter_gradient_norms=np.zeros(0),
    )


def _num_classes(part: DenseLossMixin) -> int:
    """Return K; an RPN's anchors have one class, "object"."""
    return part.num_classes if isinstance(part, RetinaNet) else 1


def _draw(candidates: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw at most :data:`MAX_SAMPLE` of the candidates, in ascending order."""
    if len(candidates) <= MAX_SAMPLE:
        return candidates
    return np.sort(generator.choice(candidates, MAX_SAMPLE, replace=False))


def _digest(seen: Sequence[_Seen], images: Sequence[dict[str, Any]], sample: np.ndarray) -> str:
    """
    Return a digest of image, box (to 1/100 pixel) and label of each sampled anchor.

    It has 16 hex digits and does not depend on the batching of the images. The sample must be in
    ascending order.
    """
    digest = hashlib.sha256()
    for image in images:
        digest.update(Path(image.get("file_name", "")).name.encode() + b"\0")
    first_anchor = first_image = 0
    for batch in seen:
        num_images, num_anchors = batch.labels.shape
        here = sample[(sample >= first_anchor) & (sample < first_anchor + batch.labels.size)]
        row, anchor = np.divmod(here - first_anchor, num_anchors)
        boxes = np.rint(batch.anchors[anchor].astype(np.float64) * 100)
        facts = [first_image + row, batch.labels[row, anchor], *boxes.T]
        digest.update(np.stack([x.astype("<i8") for x in facts], axis=1).tobytes())
        first_anchor += batch.labels.size
        first_image += num_images
    return digest.hexdigest()[:16]
