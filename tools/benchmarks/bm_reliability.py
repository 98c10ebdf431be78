#!/usr/bin/env python3
r"""
Benchmark of fault tolerance: a training step, a loaded batch and a checkpoint against Detectron2's.

    $ python tools/benchmarks/bm_reliability.py \
        --config-file configs/Shapes-Detection/retinanet_small.yaml

It measures the cost of safe interruption and of the protection of weights against NaNs. Each
variant alternates with Detectron2's in one process. Both train the same model on the same batches.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage

from focal_plugin import get_cfg
from focal_plugin.engine import Trainer
from focal_plugin.random_state import seed_all

STOCK, OURS = "Detectron2", "ours"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", type=Path, required=True)
    harness.add_arguments(parser, rounds=15)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ...")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(read_config(args.config_file, [*args.opts, "OUTPUT_DIR", folder]))
        rows = [
            measure("a training step", steps(trainer, policy="raise"), args.rounds),
            measure("the same, policy skip", steps(trainer, policy="skip"), args.rounds),
            measure("loading a batch, no workers", loads(trainer.cfg), args.rounds),
            measure("saving a checkpoint", saves(trainer, Path(folder)), args.rounds),
        ]
    harness.report(rows, file=args.json)


def read_config(file: Path, opts: list[Any]) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    cfg.merge_from_list(["SEED", 1, "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu", *opts])
    return cfg


def measure(what: str, works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    times = harness.take_turns(works, rounds, warmup=2)
    stock, ours = times[STOCK].median_ms, times[OURS].median_ms
    return {"work": what, "stock_ms": stock, "ours_ms": ours, "ratio": ours / stock}


def steps(trainer: Trainer, *, policy: str) -> dict[str, Callable[[], Any]]:
    """Return whole steps on a loaded batch, including metrics."""
    inner = trainer._trainer
    inner.guard.policy = type(inner.guard.policy)(policy)
    batches = list(itertools.islice(trainer.data_loader, 2))
    stock = SimpleTrainer(trainer.model, itertools.cycle(batches), trainer.optimizer)
    stock_handles = trainer.model._forward_pre_hooks
    ours = type(inner)(trainer.model, itertools.cycle(batches), trainer.optimizer)
    ours.guard = inner.guard
    guarded = dict(stock_handles)

    def step(of: SimpleTrainer, hooks: dict[int, Any]) -> None:
        stock_handles.clear()
        stock_handles.update(hooks)
        with EventStorage():
            if of is ours:
                seed_all(1, "step", 0, 0)
            of.iter = 0
            of.run_step()

    return {STOCK: lambda: step(stock, {}), OURS: lambda: step(ours, guarded)}


def loads(cfg: CfgNode) -> dict[str, Callable[[], Any]]:
    """Return loads of a batch: images are read, augmented and collated."""
    stock = iter(build_detection_train_loader(cfg, mapper=DatasetMapper(cfg, True)))
    ours = iter(Trainer.build_train_loader(cfg))
    return {STOCK: lambda: next(stock), OURS: lambda: next(ours)}


def saves(trainer: Trainer, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return saves with optimizer; ours also verifies, hashes and syncs to the disk."""
    stock = DetectionCheckpointer(trainer.model, str(folder), trainer=trainer)
    return {
        STOCK: lambda: stock.save("stock"),
        OURS: lambda: trainer.checkpointer.save("ours", iteration=0),
    }


if __name__ == "__main__":
    main()
