"""Identity of a run: a run resumes only from a checkpoint with the same identity."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ...components import component_digests
from ...data import describe_dataset

WITHOUT_INFLUENCE = (
    "OUTPUT_DIR",  # a run may be moved
    "VERSION",  # version of the config format
    "DATALOADER.NUM_WORKERS",  # batches do not depend on the workers
    "SOLVER.CHECKPOINT_PERIOD",  # saving has no effect on the weights
    "VIS_PERIOD",  # neither has drawing
    "CUDNN_BENCHMARK",  # affects the last bits only, like the next key; part of the environment
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",  # not read by a resumed run
    "TEST",  # evaluation only, except for PRECISE_BN
    "DATASETS.TEST",
    "MODEL.FOCAL.CLASS_NAMES",  # a name has no effect on the weights
    "MODEL.FOCAL.DIAGNOSTICS",  # observes only
    "MODEL.FOCAL.DATA.IMAGE_CACHE_MIB",  # same pixels, loaded faster
    "MODEL.FOCAL.DATA.MAX_UNREADABLE_IMAGES",  # limit only; the training data is the same
    "MODEL.FOCAL.NONFINITE",  # reaction to an error only
)
"""Keys, and nodes with all keys below them, that may change when a run resumes."""

PRECISE_BN = ("TEST.PRECISE_BN", "TEST.EVAL_PERIOD")
"""Keys that matter if PreciseBN is on: each evaluation then changes the BatchNorm statistics."""


LONGEST_VALUE = 200
"""Maximum number of characters of a value, such as a list of classes, in a message."""


def run_identity(cfg: CfgNode) -> dict[str, Any]:
    """
    Return the user's choices that determine the weights: the config and the training data.

    Returns:
        full key -> value that YAML supports (a tuple becomes a list), for each key that affects the
        weights. It includes `DATASETS.TRAIN[name].json_sha256` and `DATASETS.TRAIN[name].classes`,
        both None for a dataset without annotation file; and the digest of the source of each
        component from outside of this package. Keys for evaluation only are left out.

    Raises:
        FileNotFoundError: the annotations of a dataset do not exist.
    """
    exceptions = PRECISE_BN if cfg.TEST.PRECISE_BN.ENABLED else ()
    identity = {
        key: value
        for key, value in _flat(cfg)
        if _below(key, exceptions) or not (_below(key, WITHOUT_INFLUENCE) or key.endswith("_TEST"))
    }
    if identity.get("MODEL.FOCAL.DATA.CHECK") == "strict":
        identity["MODEL.FOCAL.DATA.CHECK"] = "normal"  # these differ only in what they reject
    for name in cfg.DATASETS.TRAIN:
        facts = describe_dataset(name)
        for fact in ("json_sha256", "classes"):
            identity[f"DATASETS.TRAIN[{name}].{fact}"] = facts[fact]
    for component, digest in component_digests(cfg).items():
        identity[f"{component}, sha256"] = digest
    return identity


def environment_identity(device: torch.device | str = "cpu") -> dict[str, Any]:
    """
    Return the environment, which affects the last bits of a result.

    Args:
        device: device of the model.

    Returns:
        versions, numbers of processes and threads, and the name of the device.
    """
    device = torch.device(device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "detectron2": detectron2.__version__,
        "focal_plugin": _own_version(),
        "processes": comm.get_world_size(),
        "threads": torch.get_num_threads(),
        "device": gpu,
    }


def differences(
    stored: Mapping[str, Any], ours: Mapping[str, Any], then: str = "in the checkpoint"
) -> dict[str, str]:
    """
    Return the keys whose values differ.

    Returns:
        key -> both values as text, such as "2.0 in the checkpoint, 1.0 now".
    """
    keys = [*stored, *(key for key in ours if key not in stored)]
    pairs = {key: (stored.get(key, _ABSENT), ours.get(key, _ABSENT)) for key in keys}
    return {key: f"{_text(a)} {then}, {_text(b)} now" for key, (a, b) in pairs.items() if a != b}


_ABSENT = object()


def _text(value: Any) -> str:
    text = "absent" if value is _ABSENT else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _flat(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in sorted(cfg.items()):
        if isinstance(value, CfgNode):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, _plain(value)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _below(key: str, nodes: tuple[str, ...]) -> bool:
    return any(key == node or key.startswith(f"{node}.") for node in nodes)


def _own_version() -> str | None:
    try:
        return importlib.metadata.version("focal_plugin")
    except importlib.metadata.PackageNotFoundError:  # a folder on the path, not installed
        return None
