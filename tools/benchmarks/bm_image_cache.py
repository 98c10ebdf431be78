#!/usr/bin/env python3
r"""
Benchmark of `MODEL.FOCAL.DATA.IMAGE_CACHE_MIB`: images per second of the loader, and steps.

    $ python tools/benchmarks/bm_image_cache.py

The loaders have no workers. They load the built-in dataset, and generated JPEGs of 640x480. The
JPEGs are resized to 800 x 1067 or, as in Detectron2's baselines, to one of six sizes. A loader with
a cache that contains every image alternates with one without a cache, batch by batch, so that
other load affects both equally.

The steps use a config and a number of workers. One trainer with a cache and one without alternate
every ten steps. Here too, the cache contains every image.

CPU time covers the main process without its workers. Comparing it with wall time shows the effect
of other processes. If there are any, OMP_NUM_THREADS=1 avoids busy waiting of threads.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import harness
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from PIL import Image

from focal_plugin import get_cfg
from focal_plugin.config import resolve_device
from focal_plugin.engine import Trainer

ROOT = Path(__file__).resolve().parents[2]
LAPTOP = ROOT / "configs" / "Shapes-Detection" / "retinanet_small.yaml"
BASELINE = ROOT / "configs" / "COCO-Detection" / "retinanet_R_50_FPN_1x.yaml"
JPEGS = "bm_image_cache_jpegs"
BOXES = 7
"""Number of boxes per image, as in COCO."""
TURN = 10
"""Number of steps of one trainer before the other trainer continues."""


class Cost(NamedTuple):
    """Time of an image, or of a step."""

    wall_ms: float
    cpu_ms: float


class Comparison(NamedTuple):
    """Medians of the measurements."""

    what: str
    without: Cost
    cached: Cost
    filling: Cost | None = None  # the first epoch of the cache

    def row(self) -> dict[str, Any]:
        filling = self.filling._asdict() if self.filling else {}
        row: dict[str, Any] = {"milliseconds": self.what}
        for clock, name in (("wall_ms", ""), ("cpu_ms", "CPU, ")):
            without, cached = getattr(self.without, clock), getattr(self.cached, clock)
            row[f"{name}without"] = without
            row[f"{name}the first time"] = filling.get(clock)
            row[f"{name}with"] = cached
            row[f"{name}ratio"] = without / cached
        return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", type=Path, default=LAPTOP, help="config of the steps")
    parser.add_argument("--mib", type=int, default=1024, help="size limit of the cache")
    parser.add_argument("--batches", type=int, default=40, help="batches of each loader")
    parser.add_argument("--jpegs", type=int, default=100, help="number; 2.4 MiB each, resized")
    parser.add_argument("--turns", type=int, default=6, help="of ten steps each; 0: no steps")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="for the steps")
    harness.add_arguments(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.INFO)
    found = list(measure_loaders(args.mib, args.batches, args.jpegs))
    if args.turns:
        found += [measure_steps(args.config_file, args.mib, args.turns, n) for n in args.workers]
    harness.report([comparison.row() for comparison in found], file=args.json, mib=args.mib)


def read_config(file: Path, mib: int, **data: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    cfg.merge_from_list(["MODEL.FOCAL.DATA.IMAGE_CACHE_MIB", mib])
    cfg.merge_from_list([x for key, value in data.items() for x in (key.replace("__", "."), value)])
    resolve_device(cfg)
    return cfg


def measure_loaders(mib: int, batches: int, jpegs: int) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        DatasetCatalog.register(JPEGS, lambda: draw_jpegs(Path(folder), jpegs))
        alone: dict[str, Any] = {"DATALOADER__NUM_WORKERS": 0}
        ours: dict[str, Any] = {**alone, "DATASETS__TRAIN": (JPEGS,), "SOLVER__IMS_PER_BATCH": 4}
        sizes = {"INPUT__MIN_SIZE_TRAIN": (640, 672, 704, 736, 768, 800)}
        for what, file, data in [
            ("an image of the built-in dataset, 128 x 128", LAPTOP, alone),
            (
                "a JPEG, 640 x 480 to 1067 x 800",
                BASELINE,
                {**ours, "INPUT__MIN_SIZE_TRAIN": (800,)},
            ),
            ("a JPEG, 640 x 480 to one of six sizes", BASELINE, {**ours, **sizes}),
        ]:
            config_of = functools.partial(read_config, file, **data)
            yield measure_loader(what, config_of, mib, batches)


def draw_jpegs(folder: Path, count: int) -> list[dict[str, Any]]:
    """Draw noise over blurred noise, files of about 100 kB as for photographs; return dicts."""
    random = np.random.RandomState(0)
    dicts = []
    for index in range(count):
        file = folder / f"{index}.jpg"
        if not file.exists():
            coarse = random.randint(0, 256, (30, 40, 3), dtype=np.uint8)
            blurred = np.asarray(
                Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
            )
            noisy = blurred + random.normal(0, 8, blurred.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, quality=85)
        corners = random.randint(0, 300, (BOXES, 2))
        boxes = np.concatenate([corners, corners + random.randint(8, 180, (BOXES, 2))], axis=1)
        annotations = [
            {"bbox": box.tolist(), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
            for box in boxes
        ]
        facts = {"file_name": str(file), "image_id": index, "height": 480, "width": 640}
        dicts.append({**facts, "annotations": annotations})
    return dicts


def measure_loader(
    what: str, config_of: Callable[[int], CfgNode], mib: int, batches: int
) -> Comparison:
    """Return the cost per image."""
    cfg = config_of(mib)
    epoch = num_images(cfg) // cfg.SOLVER.IMS_PER_BATCH
    loaders = {x: iter(Trainer.build_train_loader(config_of(x))) for x in (0, mib)}
    filling = [time_batch(loaders[mib]) for _ in range(epoch)]
    for _ in itertools.islice(loaders[mib], epoch):  # an epoch may end within a batch
        pass
    costs: dict[int, list[Cost]] = {0: [], mib: []}
    for number in range(batches):
        for x in (0, mib) if number % 2 else (mib, 0):
            costs[x].append(time_batch(loaders[x]))
    return Comparison(what, median(costs[0]), median(costs[mib]), median(filling))


def num_images(cfg: CfgNode) -> int:
    return sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN)


def time_batch(loader: Iterator[Sequence[Any]]) -> Cost:
    """Return the cost per image."""
    started = Cost(time.perf_counter(), time.process_time())
    batch = next(loader)
    return since(started, len(batch))


def since(started: Cost, parts: int = 1) -> Cost:
    """Return the cost per part since ``started``, in seconds."""
    now = (time.perf_counter(), time.process_time())
    return Cost(*(1e3 * (b - a) / parts for a, b in zip(started, now, strict=True)))


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(x) for x in zip(*costs, strict=True)))


def measure_steps(file: Path, mib: int, turns: int, workers: int) -> Comparison:
    """Return the cost per step."""
    with tempfile.TemporaryDirectory() as folder, EventStorage() as storage:
        trainers = {}
        for x in (0, mib):
            data = {"DATALOADER__NUM_WORKERS": workers, "OUTPUT_DIR": folder}
            trainers[x] = Trainer(read_config(file, x, **data))
            trainers[x].iter = 0
            fill(trainers[x])
        costs: dict[int, list[Cost]] = {0: [], mib: []}
        for number in range(turns):
            for x in (0, mib) if number % 2 else (mib, 0):
                costs[x] += time_turn(trainers[x])
                storage.clear_histograms()
    what = f"a step of {file.stem}, {workers} workers"
    return Comparison(what, median(costs[0]), median(costs[mib]))


def fill(trainer: Trainer) -> None:
    """Train for two epochs, because one may end within a batch."""
    loader = trainer._trainer._data_loader_iter
    batches = 2 * num_images(trainer.cfg) // trainer.cfg.SOLVER.IMS_PER_BATCH
    for _ in itertools.islice(loader, batches):
        pass


def time_turn(trainer: Trainer) -> list[Cost]:
    """Return the costs of a turn; its first three batches, loaded while it waited, do not count."""
    costs = []
    for _ in range(3 + TURN):
        started = Cost(time.perf_counter(), time.process_time())
        trainer.run_step()
        costs.append(since(started))
    return costs[3:]


if __name__ == "__main__":
    main()
