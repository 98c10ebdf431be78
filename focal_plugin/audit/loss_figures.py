"""
Figures of the loss before the first step, of a config, of its arms, and of CE and FL.

Shape shorthand:
    I: number of images
    M: number of annotations
    K: number of classes of the labels; 1 for an RPN
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch

from ..mining import Miner
from .anchored_set import AnchoredSet
from .dense_start import terms_of_sampled_images
from .image_terms import ImageTerms
from .labeling import Labeling
from .start_of_training import RandomSample, Start, references, start_of, terms_of_labels
from .summaries import ratio

BATCHES = 100
"""Random batches from which the first step is estimated."""


class LabeledSet(NamedTuple):
    """A dataset with the counts of its labels."""

    data: AnchoredSet
    labeling: Labeling


def loss_facts(labeled: LabeledSet, arms: dict[str, LabeledSet]) -> dict[str, Any]:
    """
    Return the figures of the loss at the start.

    Args:
        labeled: the dataset as the config labels it.
        arms: the dataset as each arm labels it, by the name of the arm.
    """
    start = start_of(labeled.data.detector)
    rows = {"config": (start, labeled)}
    rows |= {name: (own, labeled) for name, own in references(start).items()}
    rows |= {name: (start_of(arm.data.detector), arm) for name, arm in arms.items()}
    return {
        "rows": [{"name": name, **_row(*of_row)} for name, of_row in rows.items()],
        "normalizer": _normalizer_facts(start, labeled),
    }


def _row(start: Start, labeled: LabeledSet) -> dict[str, Any]:
    terms = image_terms(start, labeled)
    facts = {"loss": type(start.cls_loss).__name__, "prior_prob": start.prior_prob}
    if terms is None:
        return {**facts, "images": 0}
    positive, negative = terms.positive_loss.sum(), terms.negative_loss.sum()
    gradients = terms.positive_gradient.sum(), terms.negative_gradient.sum()
    return {
        **facts,
        "images": len(terms.num_pos),
        **({} if start.cls_loss.own_normalizer else _per_positive(terms)),
        "negatives_of_loss": ratio(negative, positive + negative),
        "negatives_of_gradient": ratio(gradients[1], sum(gradients)),
        "first_step": _spread(_first_steps(start, terms)),
    }


def _per_positive(terms: ImageTerms) -> dict[str, float | None]:
    """Return the loss for each positive anchor: over all images, and the mean over images."""
    has_positives = terms.num_pos > 0
    total = terms.positive_loss + terms.negative_loss
    of_images = total[has_positives] / terms.num_pos[has_positives]
    return {
        "per_positive": ratio(total.sum(), terms.num_pos.sum()),
        "per_positive_of_image": float(of_images.mean()) if len(of_images) else None,
    }


def image_terms(start: Start, labeled: LabeledSet) -> ImageTerms | None:
    """
    Return the terms of images: of all of them in closed form, or of a sample anchor by anchor.

    A sample is taken for a miner, and for a loss that is no sum over anchors or that uses IoUs.

    Returns:
        None if the logits of a single image would not fit in memory.
    """
    loss = start.cls_loss
    if isinstance(start.sampling, Miner) or loss.needs_quality or not loss.decomposes:
        return terms_of_sampled_images(start, labeled.data)
    return _closed_form(start, labeled)


def _closed_form(start: Start, labeled: LabeledSet) -> ImageTerms:
    table, labeling = labeled.data.table, labeled.labeling
    by_label = terms_of_labels(start)
    num_images = len(labeling.anchors)
    positives = labeling.positives.sum(axis=1)  # (M,)
    classes = table.classes if start.num_classes > 1 else np.zeros_like(table.classes)
    is_object = table.is_object

    def of_positives(term: torch.Tensor) -> np.ndarray:
        weights = positives[is_object] * term.numpy()[classes[is_object]]
        return np.bincount(table.image[is_object], weights=weights, minlength=num_images)

    num_pos = np.bincount(table.image, weights=positives, minlength=num_images)
    num_neg = (labeling.anchors - labeling.ignored).sum(axis=1) - num_pos
    kept_pos, kept_neg = _kept(start, num_pos, num_neg)
    share = np.divide(kept_pos, num_pos, out=np.zeros(num_images), where=num_pos > 0)
    loss, gradient = (term[-1].item() for term in by_label)
    return ImageTerms(
        positive_loss=of_positives(by_label.loss) * share,
        negative_loss=kept_neg * loss,
        positive_gradient=of_positives(by_label.gradient) * share,
        negative_gradient=kept_neg * gradient,
        num_pos=kept_pos,
        num_counted=kept_pos + kept_neg,
    )


def _kept(start: Start, num_pos: np.ndarray, num_neg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(start.sampling, RandomSample):
        return num_pos, num_neg
    kept_pos = np.minimum(num_pos, start.sampling.positives)
    return kept_pos, np.minimum(num_neg, start.sampling.size - kept_pos)


def _batches(num_images: int, size: int) -> list[np.ndarray]:
    """Return random batches of different images, or of all of them if there are fewer."""
    rng = np.random.default_rng(0)
    size = min(size, num_images)
    return [rng.choice(num_images, size, replace=False) for _ in range(BATCHES if size else 0)]


def _first_steps(start: Start, terms: ImageTerms) -> np.ndarray:
    """Return the loss of the first step for random batches."""
    total = terms.positive_loss + terms.negative_loss
    steps = []
    for batch in _batches(len(total), start.num_images):
        divisors = _divisors(start, terms, batch)
        loss = total[batch].mean() if divisors is None else (total[batch] / divisors).sum()
        steps.append(start.weight * loss)
    return np.array(steps)


def _divisors(start: Start, terms: ImageTerms, batch: np.ndarray) -> np.ndarray | None:
    """Return the divisors of a first batch, (1,) or (images,); None if the loss has its own."""
    if start.cls_loss.own_normalizer:
        return None
    num_pos, num_counted = (
        torch.from_numpy(x[batch].astype(np.int64)) for x in (terms.num_pos, terms.num_counted)
    )
    if isinstance(start.sampling, Miner) and start.sampling.divide_by == "kept":
        return np.array([max(num_counted.sum().item(), 1)])
    normalizer = copy.deepcopy(start.normalizer)
    divisors, _ = normalizer.of_both_losses(num_pos, num_counted=num_counted, num_boxes=num_pos)
    of_batch: np.ndarray = divisors.double().numpy()
    return of_batch


def _normalizer_facts(start: Start, labeled: LabeledSet) -> dict[str, Any]:
    positives = labeled.labeling.positives_by_image(labeled.data.table.image).sum(axis=1)
    batches = _batches(len(positives), start.num_images)
    sums = np.array([positives[batch].sum() for batch in batches], dtype=np.float64)
    return {
        "name": type(start.normalizer).__name__,
        "images_per_batch": start.num_images,
        "init": getattr(start.normalizer, "init", None),
        "positives_per_batch": _spread(sums),
    }


def _spread(values: np.ndarray) -> dict[str, float] | None:
    return {"mean": float(values.mean()), "std": float(values.std())} if len(values) else None
