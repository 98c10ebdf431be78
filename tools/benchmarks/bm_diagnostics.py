#!/usr/bin/env python3
r"""
Benchmark of `MODEL.FOCAL.DIAGNOSTICS.PERIOD`: extra time of a training step and of the snapshots.

    $ python tools/benchmarks/bm_diagnostics.py \
        --config-file configs/Shapes-Detection/retinanet_small.yaml

Steps with and without diagnostics alternate on the same batch, so that other load affects both
equally. In a run, one step per period has diagnostics. Comparing CPU time with wall time shows the
effect of other processes. On a GPU, only wall time is meaningful.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from focal_plugin import get_cfg
from focal_plugin.config import resolve_device
from focal_plugin.engine import Trainer
from focal_plugin.engine.hooks.diagnostics import DiagnosticsHook
from focal_plugin.engine.hooks.fixed_anchors import take_snapshots
from focal_plugin.engine.hooks.fixed_images import load_fixed_images
from focal_plugin.engine.hooks.fixed_losses import measure_losses


class Cost(NamedTuple):
    """Time of one step."""

    wall_ms: float
    cpu_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--config-file", type=Path, required=True)
    parser.add_argument("--period", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=60, help="number of steps of each kind")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ...")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cfg = read_config(args.config_file, [*args.opts, "OUTPUT_DIR", folder])
        cfg.MODEL.FOCAL.DIAGNOSTICS.PERIOD = args.period
        cfg.DATALOADER.NUM_WORKERS = 0
        trainer = Trainer(cfg)
        for name, seconds in time_fixed_images(trainer).items():
            print(f"{name}: {seconds:.2f} s")
        report(measure(trainer, args.pairs), args.period)


def read_config(file: Path, opts: list[Any]) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    cfg.merge_from_list(["SEED", 1, *opts])
    resolve_device(cfg)
    return cfg


def time_fixed_images(trainer: Trainer) -> dict[str, float]:
    """Return the time of each measurement on fixed images in seconds, after a first one."""
    images = load_fixed_images(trainer.cfg)
    model, batch_size = trainer.model, trainer.cfg.SOLVER.IMS_PER_BATCH
    measurements: dict[str, Callable[[], object]] = {
        "loading the images": lambda: load_fixed_images(trainer.cfg),
        "snapshots, at the start and at the end": lambda: take_snapshots(
            model, images, iteration=0, batch_size=batch_size
        ),
        "balance, at the start and at the end": lambda: measure_losses(
            model, images, batch_size=batch_size, with_balance=True
        ),
        "losses, at each evaluation": lambda: measure_losses(model, images, batch_size=batch_size),
    }
    found = {}
    for name, run in measurements.items():
        run()
        started = time.perf_counter()
        run()
        found[name] = time.perf_counter() - started
    return found


def measure(trainer: Trainer, pairs: int) -> dict[bool, list[Cost]]:
    """Return the cost of ``pairs`` steps without (False) and with diagnostics (True)."""
    cfg = trainer.cfg.clone()
    cfg.DATASETS.TEST = ()  # no snapshots during the measured steps
    hook = DiagnosticsHook(cfg, trainer.model)
    trainer.register_hooks([hook])
    trainer.start_iter = trainer.iter = 0
    batches = list(itertools.islice(trainer.data_loader, 4))  # loading is not measured
    costs: dict[bool, list[Cost]] = {False: [], True: []}
    period = cfg.MODEL.FOCAL.DIAGNOSTICS.PERIOD
    with EventStorage(1) as trainer.storage:
        hook.before_train()
        for number in range(-2, 2 * pairs):
            diagnosed = number % 4 in (1, 2)  # off, on, on, off
            trainer.iter = trainer.storage.iter = 20 * period - (1 if diagnosed else 2)
            cost = time_step(trainer, hook, batches[number // 2 % len(batches)])
            if number >= 0:  # negative numbers are warm-up
                costs[diagnosed].append(cost)
    return costs


def time_step(trainer: Trainer, hook: DiagnosticsHook, batch: list[dict[str, Any]]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    hook.before_step()
    losses = trainer.model(batch)
    trainer.optimizer.zero_grad()
    sum(losses.values()).backward()
    trainer.optimizer.step()
    hook.after_step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    cost = Cost(1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu))
    trainer.storage.clear_histograms()
    return cost


def report(costs: dict[bool, list[Cost]], period: int) -> None:
    for clock in Cost._fields:
        off, on = ([getattr(cost, clock) for cost in costs[kind]] for kind in (False, True))
        step = statistics.median(off)
        extra = statistics.median(b - a for a, b in zip(off, on, strict=True))
        print(
            f"{clock}, medians of {len(off)}: step {step:.1f}, with diagnostics {extra:.1f} more; "
            f"once in {period} steps: ratio {1 + extra / step / period:.4f}"
        )


if __name__ == "__main__":
    main()
