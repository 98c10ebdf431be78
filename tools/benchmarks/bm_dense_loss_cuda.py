#!/usr/bin/env python3
r"""
Benchmark of RetinaNet's classification loss on a GPU, the counterpart of `bm_dense_loss.py`.

It measures forward and backward from the output of the head's last convolution, in NCHW and in
NHWC, in float32 and in bfloat16.

    $ python tools/benchmarks/bm_dense_loss_cuda.py --json output/bench/dense-loss-cuda.json

It requires a CUDA device. Detectron2's loss requires 24 GiB of its memory for 16 images. A variant
that does not fit is skipped.

Columns:

* "bytes per logit": reads and writes of ours (the logits once for the loss, and again for the
  gradient, and the gradient).
* "of copy": the speed at which these bytes are processed, divided by that of a copy of the logits
  to allocated memory in the same rounds.
* "copies of the logits": peak memory in addition to the logits, including the gradient.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from bm_dense_loss import backward, make_labels, make_outputs, ours, stock_steps
from fvcore.nn import sigmoid_focal_loss, sigmoid_focal_loss_jit
from harness import Work, add_arguments, report
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from focal_plugin.losses import SigmoidFocalLoss

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OURS = "ours, triton"
GOAL_MS = {(16, "float32"): 0.57, (16, "bfloat16"): 0.3}  # for an H200, at 800 x 1344
GOAL_TIMES_STOCK = 20
GOAL_COPIES = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, rounds=30)
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[16, 2], help="images (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("H", "W"))
    parser.add_argument("--classes", type=int, default=80, help="K (default: %(default)s)")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "No CUDA device is available; bm_dense_loss.py measures on a CPU.\n")

    rows = []
    for batch, dtype, layout in itertools.product(args.batch, args.dtype, ("NCHW", "NHWC")):
        case = {"images": batch, "dtype": dtype, "layout": layout}
        outputs, labels = make_inputs(args, **case)
        rows += [case | row for row in measure(outputs, labels, args)]
        del outputs, labels
    goals = judge(rows)
    report(rows, file=args.json, gpu=gpu(), size=args.size, classes=args.classes, goals=goals)
    print(f"on {torch.cuda.get_device_name()}:")
    for goal in goals:
        print(f"  {goal['what']}: {goal['is']:.3g}, goal {goal['goal']}")


def make_inputs(
    args: argparse.Namespace, images: int, dtype: str, layout: str
) -> tuple[list[Tensor], Tensor]:
    """Return the outputs of a head and the labels (N, R), on the GPU."""
    options = {**vars(args), "batch": images, "anchors": None, "channels_last": layout == "NHWC"}
    outputs = make_outputs(argparse.Namespace(**options))
    labels = make_labels(outputs, args.classes)
    outputs = [x.detach().to("cuda", DTYPES[dtype]).requires_grad_() for x in outputs]
    return outputs, labels.cuda()


def measure(
    outputs: list[Tensor], labels: Tensor, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return a row for each variant that fits into the GPU's memory."""
    variants = make_variants(outputs, labels, args.classes)
    peaks = extra_peaks_mib(variants)
    timings = take_turns({name: variants[name] for name in peaks}, args.rounds)
    itemsize = outputs[0].element_size()
    num_logits = sum(x.numel() for x in outputs)
    rows = []
    for name, times in timings.items():
        moved = {OURS: 3 * itemsize, "copy": 2 * itemsize}.get(name)
        fifths = statistics.quantiles(times, n=5, method="inclusive")
        median = statistics.median(times)
        stock = statistics.median(timings["stock"]) if "stock" in timings else None
        copy = statistics.median(timings["copy"])
        rows.append(
            {
                "variant": name,
                "ms": median,
                "p20": fifths[0],
                "p80": fifths[-1],
                "x stock": stock and stock / median,
                "bytes per logit": moved,
                "TB/s": moved and moved * num_logits / median / 1e9,
                "of copy": moved and moved / (2 * itemsize) * copy / median,
                "extra MiB": peaks[name],
                "copies of the logits": peaks[name] * 2**20 / (num_logits * itemsize),
            }
        )
    return rows


def make_variants(outputs: list[Tensor], labels: Tensor, num_classes: int) -> dict[str, Work]:
    """
    Return the variants, all with alpha 0.25, gamma 2 and normalizer 100.

    Raises:
        RuntimeError: their losses differ.
    """
    steps = functools.partial(stock_steps, outputs, labels, num_classes)
    losses: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: ours(outputs, labels, SigmoidFocalLoss(impl="triton")),
        "ours, eager": lambda: ours(outputs, labels, SigmoidFocalLoss(impl="eager")),
        "stock": lambda: steps(sigmoid_focal_loss_jit),
        "fvcore, eager": lambda: steps(sigmoid_focal_loss),
        "torchvision": lambda: steps(torchvision_focal_loss),
    }
    with torch.no_grad():
        values = [float(losses[name]()) for name in (OURS, "ours, eager")]
    if abs(values[0] / values[1] - 1) > 1e-4:
        raise RuntimeError(f"the losses differ: {values[0]} and {values[1]}")
    warm = [torch.empty_like(x) for x in outputs]
    variants = {name: functools.partial(backward, x, outputs) for name, x in losses.items()}
    return {
        **variants,
        "copy": lambda: [y.copy_(x.detach()) for x, y in zip(outputs, warm, strict=True)],
    }


def extra_peaks_mib(variants: Mapping[str, Work]) -> dict[str, float]:
    """
    Return the peak memory in addition to the memory before, in MiB.

    The result contains only variants that fit into the GPU's memory. It also warms them up: they
    are compiled, and the allocator has their memory.
    """
    peaks = {}
    for name, work in variants.items():
        try:
            for _ in range(3):  # TorchScript compiles in the second and third run
                work()
        except torch.cuda.OutOfMemoryError:
            print(f"{name}: not enough GPU memory")
            torch.cuda.empty_cache()
            continue
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return peaks


def take_turns(variants: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Return GPU times of each variant in ms, one per round, from events before and after."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, work in variants.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            result = work()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end))
            del result
    return times


def judge(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the results of our loss with the goals."""
    goals = []
    for row in rows:
        if row["variant"] != OURS:
            continue
        where = f"{row['images']} images, {row['dtype']}, {row['layout']}"
        most = GOAL_MS.get((row["images"], row["dtype"]))
        if most is not None:
            goals.append({"what": f"{where}, ms", "is": row["ms"], "goal": f"<= {most}"})
        goals.append(
            {
                "what": f"{where}, copies of the logits",
                "is": row["copies of the logits"],
                "goal": f"<= {GOAL_COPIES}",
            }
        )
        if row["x stock"] is not None:
            goal = f">= {GOAL_TIMES_STOCK}"
            goals.append({"what": f"{where}, x stock", "is": row["x stock"], "goal": goal})
    return goals


def gpu() -> dict[str, Any]:
    import triton

    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": properties.total_memory / 2**30,
        "capability": torch.cuda.get_device_capability(),
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }


if __name__ == "__main__":
    main()
