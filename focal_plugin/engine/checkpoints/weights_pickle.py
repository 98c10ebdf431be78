"""Weights in a `.pkl` file, such as those of the model zoo, read without running code in it."""

from __future__ import annotations

import codecs
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from ...files import digest_of
from .file import CheckpointError, open_to_read

ZOO_SCHEMES = ("detectron2://", "catalog://")

_NAME_WITH_HASH = re.compile(r".*_([0-9a-f]{6})\.pkl")

_RECONSTRUCT = np.ones(0).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
_FROM_BUFFER = np.ones(1).__reduce_ex__(5)[0]
_HARMLESS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): codecs.encode,
    ("__builtin__", "bytes"): bytes,  # old protocols write b"" this way, for an empty array
    # The same functions under their names in NumPy 1 and 2
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FROM_BUFFER for core in ("core", "_core")},
}


def read_weights_pickle(file: Path, *, given: str, trusted: bool) -> dict[str, Any]:
    """
    Read weights from a `.pkl` file without running code in it.

    Args:
        given: the user's name for the file, before the download.
        trusted: True if the user allows to read it regardless of its source.

    Returns:
        weights in the form of a checkpoint: arrays under "model", and the hints that
        `DetectionCheckpointer` requires.

    Raises:
        CheckpointError: the file is neither trusted nor from the model zoo, does not match the
            hash in its name, or contains anything but arrays and plain values.
    """
    hash_in_name = _NAME_WITH_HASH.fullmatch(Path(given).name)
    if not (trusted or hash_in_name or given.startswith(ZOO_SCHEMES)):
        raise CheckpointError(
            f"{file} is not loaded: a .pkl file can run code, and this one is not from "
            "Detectron2's model zoo. Add --trust-pickle if you trust its source"
        )
    with open_to_read(file) as stream:
        if hash_in_name:
            _check_hash(file, digest_of(stream, "md5"), hash_in_name[1])
        try:
            content = _ArraysOnly(stream, encoding="latin1").load()
        except _ForbiddenGlobalError as error:
            raise CheckpointError(
                f"{file} names {error}, which a file of weights does not require. It is not loaded"
            ) from error
        except Exception as error:  # random bytes raise arbitrary errors
            raise CheckpointError(f"{file} is not a pickle of weights: {error!r}") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file} is not a pickle of weights: it contains a {type(content).__name__}, not a "
            "dictionary"
        )
    return _as_checkpoint(content)


class _ForbiddenGlobalError(Exception):
    """Error for a forbidden global; its text is the name in the file."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _HARMLESS[module, name]
        except KeyError:
            raise _ForbiddenGlobalError(f"{module}.{name}") from None


def _check_hash(file: Path, actual: str, expected: str) -> None:
    if not actual.startswith(expected):
        raise CheckpointError(
            f"{file} is damaged: its MD5 begins with {actual[:6]}, but its name says {expected}. "
            "Delete it to download it again"
        )


def _as_checkpoint(content: dict[str, Any]) -> dict[str, Any]:
    """Convert Detectron2's or Caffe2's format (weights and momenta by name) as Detectron2 does."""
    if "model" in content and "__author__" in content:
        return content
    content = content.get("blobs", content)  # present in detectors, missing in ImageNet models
    weights = {name: x for name, x in content.items() if not name.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
