"""Record of a run: `env.json` for its environment, `start.json` for its initial state."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor, nn

from ... import components
from ...data import describe_dataset
from ...files import end_line, write_json
from ...run_folder import ENVIRONMENT_FILE, METRICS_FILE, START_FILE
from ..evaluation import evaluator_in_use
from ..model_trainer import ModelTrainer
from ..wrapping import unwrapped

NUM_BATCHES = 8
"""Number of batches with a digest in `start.json`."""

PACKAGE = Path(__file__).resolve().parents[2]


class RunRecordHook(HookBase):
    """
    Hook that writes two files into `OUTPUT_DIR`; for the main process only.

    `env.json` contains versions, commit, device, seed and the facts of the datasets; every start
    writes it. `start.json` contains digests of the initial weights and of the first batches; only
    a run from iteration 0 writes it. Two runs are comparable as far as these files agree.
    """

    trainer: ModelTrainer

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg
        self._folder = Path(cfg.OUTPUT_DIR)
        self._weights: dict[str, Any] = {}
        self._batches: list[str] = []
        self._handle: Any = None
        self._in_step = False

    def before_train(self) -> None:
        write_json(self._folder / ENVIRONMENT_FILE, describe_environment(self._cfg))
        end_line(self._folder / METRICS_FILE)  # a full disk or a kill may have cut it off
        if self.trainer.start_iter > 0:
            return
        self._weights = digest_weights(self.trainer.model)
        self._write_start()
        self._handle = self.trainer.model.register_forward_pre_hook(self._see)

    def before_step(self) -> None:
        self._in_step = True

    def after_train(self) -> None:
        self._remove()

    def _see(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Record a batch before the forward pass; skip those of evaluation and PreciseBN."""
        if not self._in_step:
            return
        self._in_step = False
        self._batches.append(digest_batch(inputs[0]))
        self._write_start()
        if len(self._batches) == NUM_BATCHES:
            self._remove()

    def _write_start(self) -> None:
        content = {"weights": self._weights, "data": self._batches}
        write_json(self._folder / START_FILE, content)

    def _remove(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def describe_environment(cfg: CfgNode) -> dict[str, Any]:
    """
    Return the content of `env.json`.

    It contains no environment variables and no machine name, so that it can be published.

    Raises:
        FileNotFoundError: the annotations of a dataset do not exist.
    """
    sets = {"train": cfg.DATASETS.TRAIN, "test": cfg.DATASETS.TEST}
    facts = {name: describe_dataset(name) for name in {*sets["train"], *sets["test"]}}
    return {
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "detectron2": detectron2.__version__,
            "focal_plugin": _version_of("focal_plugin"),
            "pycocotools": _version_of("pycocotools"),
            "evaluator": evaluator_in_use(),
        },
        "imports": components.imported,
        "components": components.component_digests(cfg),
        "git": describe_checkout(PACKAGE),
        "platform": platform.platform(),
        "device": _device_name(torch.device(cfg.MODEL.DEVICE)),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "load_average": _load_average(),
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seed": cfg.SEED,
        "datasets": {use: [facts[name] for name in names] for use, names in sets.items()},
    }


def describe_checkout(folder: Path) -> dict[str, Any] | None:
    """
    Return the commit of ``folder``, and whether a tracked file has changed since.

    Returns:
        None if git is not installed or does not track the folder, e.g. if a package is installed
        inside another checkout.
    """
    try:
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def digest_weights(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return shape and digest of each tensor of the state dict."""
    return {
        key: {"shape": list(tensor.shape), "sha256": _digest([_bytes(tensor)])}
        for key, tensor in unwrapped(model).state_dict().items()
    }


def digest_batch(batch: list[dict[str, Any]]) -> str:
    """
    Return a digest of a training batch: images, pixels, and boxes and classes of the objects.

    Crowd regions are left out, because detectors that do not handle them do not receive them.
    """
    return _digest(part for image in batch for part in _parts_of(image))


def _parts_of(image: dict[str, Any]) -> Iterable[bytes]:
    yield str(image.get("image_id")).encode()
    yield Path(image.get("file_name", "")).name.encode()
    yield from (str(tuple(image["image"].shape)).encode(), _bytes(image["image"]))
    if "instances" in image:
        instances = image["instances"]
        objects = instances[instances.gt_classes >= 0]
        yield from (_bytes(objects.gt_boxes.tensor), _bytes(objects.gt_classes))


def _digest(parts: Iterable[bytes]) -> str:
    """Return 16 hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    # As uint8, because NumPy lacks types such as bfloat16.
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _version_of(distribution: str) -> str | None:
    """Return a version, or None if not installed: focal_plugin also works from a folder."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _load_average() -> float | None:
    """Return the load of the last minute; None where the system does not know it."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _git(folder: Path, *arguments: str) -> str:
    # --no-optional-locks: many runs may call git at once.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
