#!/usr/bin/env python3
r"""
Benchmark of a RetinaNet training step: ours with default keys against Detectron2's own class.

    $ python tools/benchmarks/bm_training_step.py \
        --config-file configs/Shapes-Detection/retinanet_small.yaml --batch 16 --size 128 128
    $ python tools/benchmarks/bm_training_step.py \
        --config-file configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml --batch 2 --size 512 512
    $ python tools/benchmarks/bm_training_step.py --compiled \
        --config-file configs/Shapes-Detection/retinanet_small.yaml --batch 16 --size 128 128
    $ python tools/benchmarks/bm_training_step.py --curve 200 \
        --config-file configs/Shapes-Detection/retinanet_small.yaml

All models start from the same weights and alternate on the same noise images, with seven objects
each. With `--curve`, each model trains on the config's dataset, and their losses are compared. For
reference, a further model of Detectron2's class starts from weights that differ by a millionth. It
shows how far rounding alone separates two runs.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from harness import Work, add_arguments, extra_peaks_mib, report, take_turns
from torch import nn

from focal_plugin import get_cfg
from focal_plugin.losses.elementwise import ElementwiseLoss
from focal_plugin.ops.extension import has_extension

Batch = list[dict[str, Any]]
PARTS = ("labels", "losses")
"""Parts of a forward pass that are timed, unless they are compiled with the rest."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, rounds=11)
    parser.add_argument("--config-file", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=2, help="images (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"))
    parser.add_argument(
        "--compiled", action="store_true", help="add stock's step under torch.compile"
    )
    parser.add_argument("--curve", type=int, metavar="ITERATIONS", help="compare losses instead")
    parser.add_argument("opts", nargs="*", help="KEY VALUE ...", metavar="KEY VALUE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with EventStorage():
        compare_curves(args) if args.curve else compare_steps(args)


def compare_steps(args: argparse.Namespace) -> None:
    cfg = read_config(args)
    batch = make_batch(args.batch, *args.size, num_classes=cfg.MODEL.RETINANET.NUM_CLASSES)
    models = make_models(cfg)
    parts = {name: Parts(model) for name, model in models.items()}
    if args.compiled:
        models["stock, compiled"] = build(cfg, "RetinaNet")
        models["stock, compiled"].compile()
    variants: dict[str, Work] = {
        name: functools.partial(step, model, build_optimizer(still(cfg), model), batch)
        for name, model in models.items()
    }
    peaks = extra_peaks_mib(variants, args)
    timings = take_turns(variants, args.rounds)
    rows = [
        {
            "model": name,
            "ms a step": timing.median_ms,
            "p20": timing.p20_ms,
            "p80": timing.p80_ms,
            "CPU ms": timing.cpu_ms,
            "x stock": timings["stock"].median_ms / timing.median_ms,
            **{
                f"{part} ms": parts[name].median_ms(part, args.rounds) if name in parts else None
                for part in PARTS
            },
            "extra MiB": peaks[name],
        }
        for name, timing in timings.items()
    ]
    config = args.config_file.name
    report(rows, file=args.json, config=config, batch=args.batch, size=args.size)


def compare_curves(args: argparse.Namespace) -> None:
    cfg = read_config(args)
    models = make_models(cfg)
    models["stock, a millionth apart"] = build(cfg, "RetinaNet")
    with torch.no_grad():
        for parameter in models["stock, a millionth apart"].parameters():
            parameter.mul_(1 + 1e-6)
    optimizers = {name: build_optimizer(cfg, model) for name, model in models.items()}
    torch.manual_seed(cfg.SEED)
    losses: dict[str, list[float]] = {name: [] for name in models}
    loader = build_detection_train_loader(cfg)
    for number, batch in enumerate(itertools.islice(loader, args.curve)):
        for optimizer in optimizers.values():
            warmup = min(1.0, (number + 1) / max(cfg.SOLVER.WARMUP_ITERS, 1))
            for group in optimizer.param_groups:
                group["lr"] = cfg.SOLVER.BASE_LR * warmup
        for name, model in models.items():
            losses[name].append(step(model, optimizers[name], batch))
    stock = losses["stock"]
    rows = []
    for name, curve in losses.items():
        apart = [abs(a - b) / b for a, b in zip(curve, stock, strict=True)]
        rows.append(
            {
                "model": name,
                "first loss": curve[0],
                "mean of the last 50": statistics.mean(curve[-50:]),
                "apart, first": apart[0],
                "apart, 10th": apart[9],
                "apart, median of the last 50": statistics.median(apart[-50:]),
            }
        )
    report(rows, file=args.json, config=args.config_file.name, curves=losses)


def read_config(args: argparse.Namespace) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(args.config_file))
    cfg.merge_from_list([*args.opts, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def make_models(cfg: CfgNode) -> dict[str, nn.Module]:
    models = {"stock": build(cfg, "RetinaNet"), "ours": build(cfg, "FocalRetinaNet")}
    if has_extension():
        models["ours, eager"] = build(cfg, "FocalRetinaNet")
        cls_loss = models["ours, eager"].cls_loss
        assert isinstance(cls_loss, ElementwiseLoss)
        cls_loss.impl = "eager"
    return models


def build(cfg: CfgNode, name: str) -> nn.Module:
    cfg = cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = name
    torch.manual_seed(0)
    return build_model(cfg).train()


def still(cfg: CfgNode) -> CfgNode:
    """Return a config whose optimizer works but changes nothing, so that all steps are equal."""
    cfg = cfg.clone()
    cfg.SOLVER.BASE_LR = 0.0
    return cfg


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """Run one step and return the total loss."""
    loss = sum(model(batch).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def make_batch(num_images: int, height: int, width: int, *, num_classes: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    batch = []
    for _ in range(num_images):
        corners = torch.rand(7, 2, generator=generator) * 0.7
        sizes = torch.rand(7, 2, generator=generator) * 0.25 + 0.05
        boxes = torch.cat([corners, corners + sizes], dim=1)
        boxes = boxes * torch.tensor([width, height, width, height])
        shape = (3, height, width)
        batch.append(
            {
                "image": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
                "instances": Instances(
                    (height, width),
                    gt_boxes=Boxes(boxes),
                    gt_classes=torch.randint(num_classes, (7,), generator=generator),
                ),
                "height": height,
                "width": width,
            }
        )
    return batch


class Parts:
    """Timer of the parts of a model, for each call."""

    def __init__(self, model: nn.Module) -> None:
        self.times_ms: dict[str, list[float]] = {name: [] for name in PARTS}
        labels = "assign" if hasattr(model, "assign") else "label_anchors"  # ours, or stock's
        for name, method in zip(PARTS, (labels, "losses"), strict=True):
            timed = functools.partial(self._timed, name, getattr(model, method))
            setattr(model, method, timed)

    def _timed(self, name: str, method: Work, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = method(*args, **kwargs)
        self.times_ms[name].append(1e3 * (time.perf_counter() - started))
        return result

    def median_ms(self, name: str, rounds: int) -> float:
        return statistics.median(self.times_ms[name][-rounds:])


if __name__ == "__main__":
    main()
