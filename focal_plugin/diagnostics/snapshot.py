"""
What a loss did to one fixed sample of anchors, in a file that needs NumPy only to be read.

Shape shorthand:
    L: feature levels
    B: bins of the histogram
"""

from __future__ import annotations

import os
import uuid
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

_SCALARS = {"int": int, "float": float, "str": str}


@dataclass(frozen=True)
class Snapshot:
    """
    A dense loss on fixed images, at some moment of a training run. A positive is an anchor with a
    class, a negative a background anchor; ignored anchors, which include those that an RPN does not
    sample, are counted nowhere. "Divided" is over the divisor that the loss of a training step has
    at this moment, the mean over batches of the size of a step's.

    Attributes:
        iteration: how many steps the weights had been trained for.
        part: "retinanet" or "rpn".
        loss: the registered name of the classification loss.
        options: its options, for people.
        miner: the registered name of the miner, "" if every anchor counts.
        num_classes: K.
        num_images, num_anchors: the fixed images, and their anchors that are not ignored.
        num_pos, num_neg: their positives and negatives.
        kept_pos, kept_neg: those of them that mining kept.
        anchors_digest: of images, boxes and labels of the sampled anchors: two snapshots with the
            same digest are of the same anchors.
        loss_pos, loss_neg: sums of the classification loss, undivided.
        divided_pos, divided_neg: the same, divided. Their sum is the classification loss of a step.
        divisor: the mean of the divisors; 1 for a loss that is normalised already.
        box_loss, box_divided: the box loss, undivided and divided.
        mean_probability: mean over negatives and classes: at the start, the prior.
        easy_share: of the negatives, how many are easy (each probability below 0.1).
        easy_loss_share, easy_gradient_share: what easy negatives hold of the classification loss,
            and of the sum of gradient norms over all elements (anchor, class).
        gradient_pos, gradient_neg: sums over positives and negatives of the gradient norms
            |d divided loss / d logit|.
        levels: (L,) strings, the names of the feature levels; what follows is of each:
        level_num_pos, level_num_neg: (L,).
        level_loss_pos, level_loss_neg: (L,), undivided.
        level_divided_pos, level_divided_neg: (L,), divided.
        level_box_loss: (L,), undivided.
        sample_pos, sample_neg: ascending undivided losses of at most :data:`MAX_SAMPLE` positives
            and as many negatives, the same of every arm; 0 where mining kept nothing.
        gradient_edges: (B+1,), of the bins of |d divided loss / d logit|; the first has the zeros.
        gradient_counts_pos: (B,), elements (anchor, class) where the class is the label's.
        gradient_counts_neg: (B,), all other elements.
        parameter_gradient_norms: of all parameters together before clipping, in the first
            iterations of the run; empty where they are not known.
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
        """The classification loss, undivided."""
        return self.loss_pos + self.loss_neg

    @property
    def divided(self) -> float:
        """The classification loss of a step."""
        return self.divided_pos + self.divided_neg


MAX_SAMPLE = 20_000
"""Of the positives, and of the negatives, whose losses a snapshot holds."""


def write_snapshot(file: Path, snapshot: Snapshot) -> None:
    """As `.npz` without pickle; all or nothing. Folders that are missing are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    arrays = {field.name: np.asarray(getattr(snapshot, field.name)) for field in fields(snapshot)}
    try:
        with unfinished.open("wb") as stream:
            # No field has the name of its own argument, allow_pickle
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def read_snapshot(file: Path) -> Snapshot:
    """
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no snapshot, or one with other fields; the message names it.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(f"{file} is no snapshot: {error}") from error
    expected = {field.name: field.type for field in fields(Snapshot)}
    if content.keys() != expected.keys():
        wrong = ", ".join(sorted(content.keys() ^ expected.keys()))
        raise ValueError(f"{file} is no snapshot of this version: {wrong}")
    # annotations are strings here, and all that are no scalar are arrays
    return Snapshot(
        **{
            name: _SCALARS[kind](content[name]) if kind in _SCALARS else content[name]
            for name, kind in expected.items()
        }
    )
