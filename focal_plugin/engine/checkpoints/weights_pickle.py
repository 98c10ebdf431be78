"""Weights in a `.pkl` file, as those of the model zoo, read such that no code in it is run."""

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
    ("__builtin__", "bytes"): bytes,  # how old protocols write b"", an empty array's content
    # The same functions under their names in NumPy 1 and 2.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FROM_BUFFER for core in ("core", "_core")},
}


def read_weights_pickle(file: Path, *, given: str, trusted: bool) -> dict[str, Any]:
    """
    Args:
        given: how the user named the file, before it was downloaded.
        trusted: the user says that it may be read wherever it comes from.

    Returns:
        weights in the form of a checkpoint: arrays under "model", and what
        `DetectionCheckpointer` wants to know about them.

    Raises:
        CheckpointError: the file is not of the model zoo and not trusted, it is not what its name
            says, or there is anything in it but arrays and plain values.
    """
    hash_in_name = _NAME_WITH_HASH.fullmatch(Path(given).name)
    if not (trusted or hash_in_name or given.startswith(ZOO_SCHEMES)):
        raise CheckpointError(
            f"{file} is not loaded: a .pkl file may be made to run code, and this one is not of "
            "Detectron2's model zoo. Add --trust-pickle if you know where it comes from"
        )
    with open_to_read(file) as stream:
        if hash_in_name:
            _check_hash(file, digest_of(stream, "md5"), hash_in_name[1])
        try:
            content = _ArraysOnly(stream, encoding="latin1").load()
        except _ForbiddenGlobalError as error:
            raise CheckpointError(
                f"{file} names {error}, which no file of weights needs. It is not loaded"
            ) from error
        except Exception as error:  # bytes at random raise whatever they like
            raise CheckpointError(f"{file} is no pickle of weights: {error!r}") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file} is no pickle of weights: it holds a {type(content).__name__}, not a dictionary"
        )
    return _as_checkpoint(content)


class _ForbiddenGlobalError(Exception):
    """Its text is what the file names."""


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
            "Delete it, so that it is downloaded again"
        )


def _as_checkpoint(content: dict[str, Any]) -> dict[str, Any]:
    """As Detectron2 has it: its own format, or that of Caffe2, weights and momenta by name."""
    if "model" in content and "__author__" in content:
        return content
    content = content.get("blobs", content)  # detectors have them, ImageNet models do not
    weights = {name: x for name, x in content.items() if not name.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
