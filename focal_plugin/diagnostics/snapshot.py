"""
Snapshot of a loss on one fixed sample of anchors, in a file that NumPy alone can read.

The entry `scalars` is a JSON text of all numbers and texts, because each entry takes time to read.
Files of earlier versions have an entry for each of them.

Shape shorthand:
    L: feature levels
    B: bins of the histogram
"""

from __future__ import annotations

import json
import os
import uuid
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

_SCALARS = {"int": int, "float": float, "str": str}
_ENTRY = "scalars"


@dataclass(frozen=True)
class Snapshot:
    """
    Dense loss on fixed images at one iteration of a training run.

    A positive is an anchor with a class, a negative is a background anchor. Ignored anchors, and
    anchors that an RPN does not sample, are not counted. "Divided" means divided by the divisor of
    a training step at this iteration: the mean over batches of a training step's size.

    Attributes:
        iteration: number of training steps of the weights.
        part: "retinanet" or "rpn".
        loss: the registered name of the classification loss.
        options: its options, as readable text.
        miner: the registered name of the miner, "" if every anchor counts.
        num_classes: K.
        num_images, num_anchors: number of fixed images, and of their anchors that are not ignored.
        num_pos, num_neg: number of positives and negatives.
        kept_pos, kept_neg: number of positives and negatives kept by mining.
        anchors_digest: digest of the images, boxes and labels of the sampled anchors. Two snapshots
            with the same digest have the same anchors.
        loss_pos, loss_neg: sums of the classification loss, undivided.
        divided_pos, divided_neg: sums of the divided classification loss. They add up to the
            classification loss of a step.
        divisor: the mean of the divisors; 1 for a loss that is already normalized.
        box_loss, box_divided: the box loss, undivided and divided.
        mean_probability: mean over negatives and classes. At the start, it is the prior.
        easy_share: share of the negatives that are easy (every probability below 0.1).
        easy_loss_share, easy_gradient_share: share of the easy negatives in the classification
            loss, and in the sum of gradient norms over all elements (anchor, class).
        gradient_pos, gradient_neg: sums of the gradient norms |d divided loss / d logit| over
            positives and negatives.
        levels: (L,) strings, the names of the feature levels. The `level_` fields refer to them.
        level_num_pos, level_num_neg: (L,).
        level_loss_pos, level_loss_neg: (L,), undivided.
        level_divided_pos, level_divided_neg: (L,), divided.
        level_box_loss: (L,), undivided.
        sample_pos, sample_neg: undivided losses in ascending order, of at most :data:`MAX_SAMPLE`
            positives and as many negatives. Every arm samples the same anchors. The loss is 0 for
            anchors that mining drops.
        gradient_edges: (B+1,), edges of the bins of |d divided loss / d logit|. The first bin also
            holds the zeros.
        gradient_counts_pos: (B,), elements (anchor, class) whose class is the label.
        gradient_counts_neg: (B,), all other elements.
        parameter_gradient_norms: norms over all parameters before clipping, in the first iterations
            of the run; empty if they are unknown.
    """

    iteration: int
    part: str
    loss: str
    options: str
    miner: str
    num_classes: int
    num_images: int
    num_anchors: int
    num_pos: int
    num_neg: int
    kept_pos: int
    kept_neg: int
    anchors_digest: str
    loss_pos: float
    loss_neg: float
    divided_pos: float
    divided_neg: float
    divisor: float
    box_loss: float
    box_divided: float
    mean_probability: float
    easy_share: float
    easy_loss_share: float
    easy_gradient_share: float
    gradient_pos: float
    gradient_neg: float
    levels: np.ndarray
    level_num_pos: np.ndarray
    level_num_neg: np.ndarray
    level_loss_pos: np.ndarray
    level_loss_neg: np.ndarray
    level_divided_pos: np.ndarray
    level_divided_neg: np.ndarray
    level_box_loss: np.ndarray
    sample_pos: np.ndarray
    sample_neg: np.ndarray
    gradient_edges: np.ndarray
    gradient_counts_pos: np.ndarray
    gradient_counts_neg: np.ndarray
    parameter_gradient_norms: np.ndarray

    @property
    def loss_sum(self) -> float:
        """Classification loss, undivided."""
        return self.loss_pos + self.loss_neg

    @property
    def divided(self) -> float:
        """Classification loss of a step."""
        return self.divided_pos + self.divided_neg


MAX_SAMPLE = 20_000
"""Maximum number of positives, and of negatives, whose losses a snapshot holds."""


def write_snapshot(file: Path, snapshot: Snapshot) -> None:
    """Write a snapshot atomically, as `.npz` without pickle. Create missing folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    scalars: dict[str, Any] = {}
    arrays = {}
    for field in fields(snapshot):
        value, kind = getattr(snapshot, field.name), str(field.type)
        if kind in _SCALARS:
            scalars[field.name] = _SCALARS[kind](value)
        else:
            arrays[field.name] = np.asarray(value)
    arrays[_ENTRY] = np.asarray(json.dumps(scalars))
    try:
        with unfinished.open("wb") as stream:
            # No field is named like the function's own argument, allow_pickle
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def read_snapshot(file: Path) -> Snapshot:
    """
    Read a snapshot.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a snapshot, or its fields differ; the message names the file.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            content: dict[str, Any] = {name: arrays[name] for name in arrays.files}
        content |= json.loads(str(content.pop(_ENTRY, "{}")))
    except (zipfile.BadZipFile, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a snapshot: {error}") from error
    expected = {field.name: str(field.type) for field in fields(Snapshot)}
    if content.keys() != expected.keys():
        wrong = ", ".join(sorted(content.keys() ^ expected.keys()))
        raise ValueError(f"{file} is not a snapshot of this version: {wrong}")
    # annotations are strings here, and every field that is not a scalar is an array
    try:
        values = {
            name: _SCALARS[kind](content[name]) if kind in _SCALARS else content[name]
            for name, kind in expected.items()
        }
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a snapshot: {error}") from error
    return Snapshot(**values)
