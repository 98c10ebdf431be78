"""NumPy implementation of :mod:`~focal_plugin.ops.weighted_ap`."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

RECALLS = 101
"""Number of the recalls 0, .01, ... 1."""

# Weights of true positives at once: a block of them stays in the cache of a core
_BLOCK = 2**17
# From this many weights on, a sum or a maximum is faster row by row than by `accumulate`
_WIDE = 400


def why_not(device: torch.device) -> str | None:
    """Return None: nothing prevents it."""
    return None


def weighted_ap(
    matched: Tensor, ignored: Tensor, image: Tensor, weights: Tensor, objects: Tensor
) -> Tensor:
    """Return precision and recall, in blocks of weights."""
    arrays = (tensor.numpy() for tensor in (matched, ignored, image, weights, objects))
    return torch.from_numpy(np.stack(_accumulate(*arrays)))


def _accumulate(
    matched: np.ndarray,
    ignored: np.ndarray,
    image: np.ndarray,
    weights: np.ndarray,
    total: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(total), len(matched))
    precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
    if not total.any():
        return precision, recall
    counted = ~ignored
    right = matched & counted
    # The curve can only rise at a true positive. Nearly all detections count at every threshold;
    # they are summed once for all thresholds
    always, rises = counted.all(axis=0), np.flatnonzero(right.any(axis=0))
    up_to_rise = _rows_up_to(rises, np.flatnonzero(always), image, len(weights))
    hits = [np.flatnonzero(row) for row in right]
    sometimes = [np.flatnonzero(row) for row in counted & ~always]
    up_to_hit = {
        t: _rows_up_to(hits[t], subset, image, len(weights))
        for t, subset in enumerate(sometimes)
        if len(subset)
    }
    step = max(1, _BLOCK // max(1, len(rises)))
    for start in range(0, len(total), step):
        block = slice(start, start + step)
        of_block = np.ascontiguousarray(weights[:, block])
        there = total[block] > 0
        objects = np.where(there, total[block], 1.0)
        shown_always = _summed(up_to_rise @ of_block)
        memory = np.empty((4, *shown_always.shape))
        for t, places in enumerate(hits):
            found, shown, *free = memory[:, : len(places)]
            np.take(of_block, image[places], axis=0, out=found, mode="clip")
            np.take(shown_always, np.searchsorted(rises, places), axis=0, out=shown, mode="clip")
            if t in up_to_hit:
                shown += _summed(up_to_hit[t] @ of_block)
            last = _summed(found)[-1] / objects if len(places) else np.zeros(len(objects))
            highest, spans = envelope(found, shown, objects, *free)
            area = np.einsum("pb,pb->b", highest, spans) / RECALLS
            precision[block, t] = np.where(there, area, np.nan)
            recall[block, t] = np.where(there, last, np.nan)
    return precision, recall


def _rows_up_to(
    places: np.ndarray, subset: np.ndarray, image: np.ndarray, images: int
) -> csr_array:
    """
    Return (P, I) how many detections of a subset each image has between two places.

    Args:
        places: (P,) places among the detections, ascending.
        subset: places of the detections that count, ascending.
        image: (N,) index of the image.
        images: I.
    """
    ends = np.searchsorted(subset, places, side="right")
    counted = image[subset[: ends[-1] if len(ends) else 0]]
    return csr_array(
        (np.ones(len(counted)), counted, np.append(0, ends)), shape=(len(places), images)
    )


def _summed(rows: np.ndarray) -> np.ndarray:
    """Return the sums of the rows (P, B) up to each, in place."""
    return _accumulated(np.add, rows)


def _accumulated(operation: np.ufunc, rows: np.ndarray) -> np.ndarray:
    """Apply `operation.accumulate` along the first axis of (P, B), in place."""
    if rows.shape[1] < _WIDE:
        return operation.accumulate(rows, axis=0, out=rows)
    for row, next_row in pairwise(rows):
        operation(row, next_row, out=next_row)
    return rows


def envelope(
    right: np.ndarray, shown: np.ndarray, total: np.ndarray, *free: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the precision-recall curve at the P true positives, the only points where it can rise.

    Args:
        right: (P, B) weight of the true positives up to each; overwritten.
        shown: (P, B) weight of all detections up to each; overwritten.
        total: (B,) weight of the objects, > 0.
        free: two arrays (P, B) of any content, because new memory takes longer than the operations.

    Returns:
        precision: (P, B) largest precision at this true positive or a later one.
        spans: (P, B) number of the recalls 0, .01, ... 1 that this true positive reaches first.
    """
    # The operations are those of pycocotools, so the rounding is the same
    shown += np.spacing(1)
    precision = np.divide(right, shown, out=shown)
    _accumulated(np.maximum, precision[::-1])
    right /= total
    reached, spans = recalls_reached(right, *free), right
    np.subtract(reached[1:], reached[:-1], out=spans[1:])
    spans[:1] = reached[:1]
    return precision, spans


def recalls_reached(
    recall: np.ndarray, out: np.ndarray | None = None, free: np.ndarray | None = None
) -> np.ndarray:
    """
    Return how many of the recalls 0, .01, ... 1 are at most each recall, which is in [0, 1].

    It is `np.searchsorted(recalls, recall, side="right")` as a float, ten times as fast.
    """
    # Recall number i of pycocotools is the rounded product of i and .01, and so is this one
    reached: np.ndarray = np.multiply(recall, 100, out=out)
    reached += 1e-9
    np.floor(reached, out=reached)
    reached += np.multiply(reached, 0.01, out=free) <= recall
    return reached
