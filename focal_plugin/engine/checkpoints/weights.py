"""Weights in a file of any of the formats that Detectron2 knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .file import CheckpointError, read_checkpoint
from .weights_pickle import read_weights_pickle

HEURISTICS = "matching_heuristics"
"""Tells `DetectionCheckpointer` that names are not those of the model."""


def read_weights(file: Path, *, given: str, trust_pickle: bool = False) -> dict[str, Any]:
    """
    Args:
        file: `.pkl` (model zoo, Caffe2), `.pyth` (pycls), or else of PyTorch.
        given: how the user named it, before it was downloaded.
        trust_pickle: read a `.pkl` file that is not of the model zoo.

    Returns:
        the content as `DetectionCheckpointer` wants it; under "model" are arrays and tensors only.

    Raises:
        CheckpointError: the file is damaged, or not of such a format.
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
    """As Detectron2 has it."""
    if not isinstance(content.get("model_state"), dict):
        raise CheckpointError(f"{file} is no checkpoint of pycls: it has no 'model_state'")
    weights = {
        name: weight
        for name, weight in content["model_state"].items()
        if not name.endswith("num_batches_tracked")
    }
    return {"model": weights, "__author__": "pycls", HEURISTICS: True}


def _check_weights(file: Path, weights: Any) -> None:
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{file} is no checkpoint: there are no weights in it")
    for name, weight in weights.items():
        if not isinstance(weight, Tensor | np.ndarray):
            raise CheckpointError(
                f"{file} is no checkpoint: {name} is a {type(weight).__name__}, not a tensor"
            )
