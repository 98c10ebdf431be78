"""Time and memory of a few iterations that are thrown away, and time of a test image."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor

from ..config import resolve_device
from .command_line import settle_from_training_set
from .trainer import Trainer

WARM_UP = 2
TIMED = 5


def seconds_per_step(cfg: CfgNode, *, warm_up: int = WARM_UP, timed: int = TIMED) -> float:
    """
    Train a few iterations from random weights, and return the median time of one in seconds.

    Args:
        cfg: the config of a run, with a `SEED` >= 0; nothing is written into its `OUTPUT_DIR`.
        warm_up: iterations before the timed ones.
        timed: iterations that are timed, >= 1.
    """
    seconds = []
    with _trainer(cfg) as trainer, EventStorage(0) as storage:
        for trainer.iter in range(warm_up + timed):
            started = time.perf_counter()
            trainer.run_step()
            seconds.append(time.perf_counter() - started)
            storage.step()
    return statistics.median(seconds[warm_up:])


def bytes_per_image(cfg: CfgNode) -> float:
    """
    Return the memory that a training step keeps for its backward pass, in bytes per image.

    It is the size of the tensors that autograd saves in one forward pass from random weights, so it
    is the same on every device. Weights do not count.

    Args:
        cfg: the config of a run, with a `SEED` >= 0; nothing is written into its `OUTPUT_DIR`.
    """
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with _trainer(cfg) as trainer, EventStorage(0):
        images = next(iter(trainer.data_loader))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            trainer.model(images)
        weights = {x.untyped_storage().data_ptr() for x in trainer.model.parameters()}
        num_bytes = sum(
            tensor.untyped_storage().nbytes()
            for pointer, tensor in saved.items()
            if pointer not in weights
        )
    return num_bytes / len(images)


def seconds_per_test_image(cfg: CfgNode, *, images: int = 4) -> float:
    """
    Return the median time in which an untrained model detects objects in a test image, in seconds.

    An untrained model gives every anchor a similar score. So many pass the score threshold, and the
    time is at the upper end.

    Args:
        cfg: the config of a run, with a `SEED` >= 0; nothing is written into its `OUTPUT_DIR`.
        images: images of the first test set that are timed, after one that is not.
    """
    seconds = []
    with _trainer(cfg) as trainer, torch.no_grad():
        trainer.model.eval()
        loader = Trainer.build_test_loader(trainer.cfg, trainer.cfg.DATASETS.TEST[0])
        started = time.perf_counter()
        for batch in islice(loader, images + 1):
            trainer.model(batch)
            seconds.append((time.perf_counter() - started) / len(batch))
            started = time.perf_counter()
    return statistics.median(seconds[1:] or seconds)


@contextmanager
def _trainer(cfg: CfgNode) -> Iterator[Trainer]:
    """Provide a trainer with random weights, whose output folder is removed."""
    gc.collect()  # the data loader of an earlier one; a forked worker could not end its workers
    cfg = cfg.clone()
    cfg.defrost()
    resolve_device(cfg)
    settle_from_training_set(cfg)
    with tempfile.TemporaryDirectory() as folder:
        cfg.OUTPUT_DIR = folder
        trainer = Trainer(cfg)
        trainer.model.train()
        yield trainer
