#!/usr/bin/env python3
r"""
`bm_dense_loss.py` on a GPU: the classification loss of RetinaNet, forward and backward, from what
the head's last convolution wrote, in NCHW and in NHWC, in float32 and in bfloat16.

    $ python tools/benchmarks/bm_dense_loss_cuda.py --json output/bench/dense-loss-cuda.json

It needs a CUDA device, and 24 GiB of its memory for what stock does with 16 images; a variant for
which there is too little is left out.

Columns: bytes per logit are what ours reads and writes (the logits once for the loss, and again for
the gradient, and the gradient); "of copy" is the speed at which these bytes went by, over that of a
copy of the logits to memory that is there, in the same rounds; copies of the logits are the most
memory beyond them, gradient included.
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
GOAL_MS = {(16, "float32"): 0.95, (16, "bfloat16"): 0.5}  # of an H200, at 800 x 1344
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
        parser.exit(1, "There is no CUDA device here; bm_dense_loss.py measures on a CPU.\n")

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
    """What a head wrote, and the labels (N, R), on the GPU."""
    options = {**vars(args), "batch": images, "anchors": None, "channels_last": layout == "NHWC"}
    outputs = make_outputs(argparse.Namespace(**options))
    labels = make_labels(outputs, args.classes)
    outputs = [x.detach().to("cuda", DTYPES[dtype]).requires_grad_() for x in outputs]
    return outputs, labels.cuda()


def measure(
    outputs: list[Tensor], labels: Tensor, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each variant that the GPU's memory is enough for."""
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
    All with alpha .25 and gamma 2, divided by 100.

    Raises:
        RuntimeError: their losses are not the same.
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
    The most memory that tensors took beyond what was there before, in MiB; of those variants only
    for which the GPU has enough. They are warm then: compiled, and known to the allocator.
    """
    peaks = {}
    for name, work in variants.items():
        try:
            for _ in range(3):  # TorchScript compiles in the second and third run
                work()
        except torch.cuda.OutOfMemoryError:
            print(f"{name}: the GPU has too little memory")
            torch.cuda.empty_cache()
            continue
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return peaks


def take_turns(variants: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the GPU, between events before and after, of each variant once a round."""
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
    """What was reached of what is to be reached, of ours."""
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
