"""What makes a run this run: a checkpoint is resumed from only by the run that it is of."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..hooks.run_record import describe_dataset

WITHOUT_INFLUENCE = (
    "OUTPUT_DIR",  # a run may be moved
    "VERSION",  # of the format of the config
    "DATALOADER.NUM_WORKERS",  # batches do not depend on who loads them
    "SOLVER.CHECKPOINT_PERIOD",  # saving changes nothing
    "VIS_PERIOD",  # nor does drawing
    "CUDNN_BENCHMARK",  # the last bits: of the environment, as the next one
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",  # not read when a run resumes
    "TEST",  # evaluation; but see PRECISE_BN
    "DATASETS.TEST",
    "MODEL.FOCAL.DIAGNOSTICS",  # looks on
    "MODEL.FOCAL.DATA.IMAGE_CACHE_MIB",  # the same pixels, sooner
    "MODEL.FOCAL.DATA.MAX_UNREADABLE_IMAGES",  # when to give up; what is trained on is the same
    "MODEL.FOCAL.NONFINITE",  # what to do where a run cannot go on
)
"""Keys, and nodes with all below them, that may change while a run is interrupted."""

PRECISE_BN = ("TEST.PRECISE_BN", "TEST.EVAL_PERIOD")
"""Where it is on, it changes the statistics of BatchNorm whenever there is an evaluation."""


LONGEST_VALUE = 200
"""Characters of a value, such as a list of classes, that a message shows."""


def run_identity(cfg: CfgNode) -> dict[str, Any]:
    """
    What the weights depend on that a user decides: the config, and the training data.

    Returns:
        full key -> a value that YAML knows (a tuple is a list), of each key that has an influence,
        `DATASETS.TRAIN[name].json_sha256` and `DATASETS.TRAIN[name].classes` (both None for a data
        set without annotation file) among them. Keys of evaluation alone have none.

    Raises:
        FileNotFoundError: the annotations of a data set are not there.
    """
    exceptions = PRECISE_BN if cfg.TEST.PRECISE_BN.ENABLED else ()
    identity = {
        key: value
        for key, value in _flat(cfg)
        if _below(key, exceptions) or not (_below(key, WITHOUT_INFLUENCE) or key.endswith("_TEST"))
    }
    if identity.get("MODEL.FOCAL.DATA.CHECK") == "strict":
        identity["MODEL.FOCAL.DATA.CHECK"] = "normal"  # they differ in what they refuse
    for name in cfg.DATASETS.TRAIN:
        facts = describe_dataset(name)
        for fact in ("json_sha256", "classes"):
            identity[f"DATASETS.TRAIN[{name}].{fact}"] = facts[fact]
    return identity


def environment_identity(device: torch.device | str = "cpu") -> dict[str, Any]:
    """
    What the last bits of a result depend on.

    Args:
        device: where the model is.

    Returns:
        versions, number of processes and of threads, and the name of the device.
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
    Returns:
        each key whose values differ -> both in words, such as "2.0 in the checkpoint, 1.0 now".
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
    except importlib.metadata.PackageNotFoundError:  # used as a folder on the path
        return None
