"""Weights in any file format that Detectron2 supports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .file import CheckpointError, read_checkpoint
from .weights_pickle import read_weights_pickle

HEURISTICS = "matching_heuristics"
"""Key that tells `DetectionCheckpointer` that the names differ from those of the model."""


def read_weights(file: Path, *, given: str, trust_pickle: bool = False) -> dict[str, Any]:
    """
    Read weights from a file.

    Args:
        file: `.pkl` (model zoo, Caffe2), `.pyth` (pycls), or a PyTorch file.
        given: the user's name for the file, before the download.
        trust_pickle: read a `.pkl` file from outside the model zoo.

    Returns:
        the content in the form that `DetectionCheckpointer` requires; "model" contains only arrays
        and tensors.

    Raises:
        CheckpointError: the file is damaged or has another format.
    """
    if file.suffix == ".pkl":
        content = read_weights_pickle(file, given=given, trusted=trust_pickle)
    elif file.suffix == ".pyth":
        content = _from_pycls(file, read_checkpoint(file))
    else:
        content = read_checkpoint(file)
        if "model" not in content:
            content = {"model": content}
    _check_weights(file, content["model"])
    return content


def _from_pycls(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Convert a pycls checkpoint as Detectron2 does."""
    if not isinstance(content.get("model_state"), dict):
        raise CheckpointError(f"{file} is not a pycls checkpoint: it has no 'model_state'")
    weights = {
        name: weight
        for name, weight in content["model_state"].items()
        if not name.endswith("num_batches_tracked")
    }
    return {"model": weights, "__author__": "pycls", HEURISTICS: True}


def _check_weights(file: Path, weights: Any) -> None:
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{file} is not a checkpoint: it contains no weights")
    for name, weight in weights.items():
        if not isinstance(weight, Tensor | np.ndarray):
            raise CheckpointError(
                f"{file} is not a checkpoint: {name} is a {type(weight).__name__}, not a tensor"
            )
