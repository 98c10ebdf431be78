"""Time of an iteration, from a few that are trained and thrown away."""

from __future__ import annotations

import statistics
import tempfile
import time

from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from ..config import resolve_device
from .command_line import count_samples_per_class
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
    cfg = cfg.clone()
    cfg.defrost()
    resolve_device(cfg)
    count_samples_per_class(cfg)
    seconds = []
    with tempfile.TemporaryDirectory() as folder, EventStorage(0) as storage:
        cfg.OUTPUT_DIR = folder
        trainer = Trainer(cfg)
        trainer.model.train()
        for trainer.iter in range(warm_up + timed):
            started = time.perf_counter()
            trainer.run_step()
            seconds.append(time.perf_counter() - started)
            storage.step()
    return statistics.median(seconds[warm_up:])
