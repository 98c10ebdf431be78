#!/usr/bin/env python3
r"""
Benchmark of RetinaNet's classification loss, forward and backward.

It compares our loss with Detectron2's own steps, fvcore's and torchvision's. The input is the
output of the head's last convolution.

Two further peers are compiled by `torch.compile`: stock's steps as they are, and "masked", which
is what a careful user would write for it. It multiplies by a mask, so that no shape depends on the
labels, and the compiler fuses all of it. Each is compiled for the shapes of the benchmark; other
shapes would compile again.

    $ python tools/benchmarks/bm_dense_loss.py --size 800 1344
    $ python tools/benchmarks/bm_dense_loss.py --anchors 20000 --batch 4

With `--anchors` the logits are one tensor (N, R, K), otherwise the five levels of a pyramid in
NCHW, as the head outputs them. `--loss` compares our losses with each other instead: all, or those
that are named after it, and focal loss.

Columns:

* "bytes per logit": for ours, the minimum of reads and writes (the logits once, their gradient
  once). For others, the memory traffic of the named operations.
* "of copy": the speed at which these bytes are processed, divided by that of
  `torch.empty_like(x).copy_(x)` in the same rounds.
* "copies of the logits": peak memory in addition to the logits, including the gradient.
"""

from __future__ import annotations

import argparse
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from detectron2.layers import cat
from detectron2.modeling.meta_arch.retinanet import permute_to_N_HWA_K
from fvcore.nn import sigmoid_focal_loss, sigmoid_focal_loss_jit
from harness import Work, add_arguments, extra_peaks_mib, report, take_turns
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from focal_plugin.losses import CLS_LOSS_REGISTRY, SigmoidFocalLoss
from focal_plugin.modeling.retinanet import view_as_anchors
from focal_plugin.ops.extension import has_extension

ANCHORS_PER_LOCATION = 9
STRIDES = (8, 16, 32, 64, 128)
BYTES_PER_LOGIT = {
    # logits are read, and the gradient is written
    "ours, cpp": 8,
    "ours, eager": 8,
    # counted over the operations, without those inside binary_cross_entropy_with_logits
    "stock": 448,
    "fvcore, eager": 404,
    # read and write, as the unit of speed
    "copy": 8,
    "copy, warm": 8,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, rounds=7)
    parser.add_argument("--batch", type=int, default=2, help="images (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("H", "W"))
    parser.add_argument("--anchors", type=int, help="anchors per image, in one tensor (N, R, K)")
    parser.add_argument("--classes", type=int, default=80, help="K (default: %(default)s)")
    parser.add_argument("--channels-last", action="store_true", help="use NHWC logits")
    parser.add_argument(
        "--loss",
        nargs="*",
        metavar="NAME",
        help="compare our losses, not code bases (default: all)",
    )
    parser.add_argument("--impl", default="auto", help="of --loss (default: %(default)s)")
    parser.add_argument("--compiled", action="store_true", help="include peers of torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    outputs = make_outputs(args)
    labels = make_labels(outputs, args.classes)
    if args.loss is None:
        variants = code_bases(outputs, labels, args.classes, compiled=args.compiled)
    else:
        variants = loss_variants(outputs, labels, args)
    peaks = extra_peaks_mib(variants, args)
    timings = take_turns(variants, args.rounds)
    num_logits = sum(x.numel() for x in outputs)
    logits_mib = num_logits * 4 / 2**20
    first = next(iter(timings))
    rows = []
    for name, timing in timings.items():
        row = {
            "variant": name,
            "ms": timing.median_ms,
            "p20": timing.p20_ms,
            "p80": timing.p80_ms,
            "CPU ms": timing.cpu_ms,
            f"x {first}": timings[first].median_ms / timing.median_ms,
        }
        if args.loss is None:
            moved = BYTES_PER_LOGIT.get(name)
            copy = timings["copy"].median_ms
            row["bytes per logit"] = moved
            row["of copy"] = moved and moved / 8 * copy / timing.median_ms
        row["extra MiB"] = peaks[name]
        row["copies of the logits"] = peaks[name] / logits_mib
        rows.append(row)
    print(f"{num_logits / 1e6:.2f} M logits, one copy of them {logits_mib:.0f} MiB")
    shapes = [list(x.shape) for x in outputs]
    report(rows, file=args.json, num_logits=num_logits, shapes=shapes, classes=args.classes)


def make_outputs(args: argparse.Namespace) -> list[Tensor]:
    """Return logits around the prior of 0.01, per level (N, A * K, Hi, Wi), or (N, R, K)."""
    generator = torch.Generator().manual_seed(0)
    if args.anchors:
        shapes = [(args.batch, args.anchors, args.classes)]
    else:
        sizes = [[-(-x // stride) for x in args.size] for stride in STRIDES]
        shapes = [(args.batch, ANCHORS_PER_LOCATION * args.classes, *size) for size in sizes]
    outputs = [torch.randn(shape, generator=generator).mul_(1.5).sub_(4.6) for shape in shapes]
    if args.channels_last:
        outputs = [x.contiguous(memory_format=torch.channels_last) for x in outputs]
    return [x.requires_grad_() for x in outputs]


def make_labels(outputs: list[Tensor], num_classes: int) -> Tensor:
    """Return labels (N, R): per image 100 positives, 2000 ignored, all others background."""
    generator = torch.Generator().manual_seed(1)
    num_images = len(outputs[0])
    num_anchors = sum(x.numel() for x in outputs) // num_classes // num_images
    labels = torch.full((num_images, num_anchors), num_classes)
    for of_image in labels:
        chosen = torch.randperm(num_anchors, generator=generator)[: num_anchors // 50]
        of_image[chosen] = -1
        positives = chosen[:100]
        of_image[positives] = torch.randint(num_classes, positives.shape, generator=generator)
    return labels


def code_bases(
    outputs: list[Tensor], labels: Tensor, num_classes: int, *, compiled: bool
) -> dict[str, Work]:
    """Return the code bases to compare, all with alpha 0.25, gamma 2 and normalizer 100."""
    steps = functools.partial(stock_steps, outputs, labels, num_classes)
    variants: dict[str, Callable[[], Any]] = {
        "stock": lambda: steps(sigmoid_focal_loss_jit),
        "fvcore, eager": lambda: steps(sigmoid_focal_loss),
        "torchvision": lambda: steps(torchvision_focal_loss),
    }
    if has_extension():
        variants["ours, cpp"] = lambda: ours(outputs, labels, SigmoidFocalLoss(impl="cpp"))
    variants["ours, eager"] = lambda: ours(outputs, labels, SigmoidFocalLoss(impl="eager"))
    if compiled:
        variants |= compiled_peers(outputs, labels, num_classes)
    return {
        **{name: functools.partial(backward, loss, outputs) for name, loss in variants.items()},
        **copies(outputs),
    }


def compiled_peers(
    outputs: list[Tensor], labels: Tensor, num_classes: int
) -> dict[str, Callable[[], Tensor]]:
    """Return the peers that `torch.compile` compiles, for the shapes of this benchmark."""
    stock = torch.compile(stock_steps)
    masked = torch.compile(masked_steps, fullgraph=True, dynamic=False)
    return {
        "stock, compiled": lambda: stock(outputs, labels, num_classes, sigmoid_focal_loss),
        "masked, compiled": lambda: masked(outputs, labels, num_classes),
    }


def loss_variants(
    outputs: list[Tensor], labels: Tensor, args: argparse.Namespace
) -> dict[str, Work]:
    """
    Return registered losses with default options; focal loss is first.

    A softmax loss reads one more logit of each anchor, that of the background.
    """
    names = ["SigmoidFocalLoss", *(args.loss or sorted(dict(CLS_LOSS_REGISTRY)))]
    quality = torch.full(labels.shape, 0.8)
    with_background: list[Tensor] = []
    variants: dict[str, Work] = {}
    for name in names:
        loss_class = CLS_LOSS_REGISTRY.get(name)
        columns = loss_class().num_columns(args.classes)
        if name in variants or columns != args.classes + loss_class.softmax:
            continue
        needed = {"num_classes": args.classes, "samples_per_class": [100] * args.classes}
        accepted = inspect.signature(loss_class.__init__).parameters
        loss = loss_class(**{key: value for key, value in needed.items() if key in accepted})
        if args.impl != "auto":
            loss.impl = args.impl
        read = outputs
        if loss.softmax:
            with_background = with_background or append_background(outputs, args)
            read = with_background
        work = functools.partial(ours, read, labels, loss, quality)
        variants[name] = functools.partial(backward, work, read)
    return variants


def append_background(outputs: list[Tensor], args: argparse.Namespace) -> list[Tensor]:
    """Return the same logits with a background logit of 0 for each anchor, in the same layout."""
    with torch.no_grad():
        if args.anchors:
            return [F.pad(x, (0, 1)).requires_grad_() for x in outputs]
        of_anchors = [x.unflatten(1, (ANCHORS_PER_LOCATION, -1)) for x in outputs]
        padded = [F.pad(x, (0, 0, 0, 0, 0, 1)).flatten(1, 2) for x in of_anchors]
        memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
        return [x.contiguous(memory_format=memory_format).requires_grad_() for x in padded]


def copies(outputs: list[Tensor]) -> dict[str, Work]:
    warm = [torch.empty_like(x) for x in outputs]
    return {
        "copy": lambda: [torch.empty_like(x).copy_(x.detach()) for x in outputs],
        "copy, warm": lambda: [y.copy_(x.detach()) for x, y in zip(outputs, warm, strict=True)],
    }


def backward(loss: Callable[[], Tensor], outputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(), outputs)


def stock_steps(
    outputs: list[Tensor], labels: Tensor, num_classes: int, focal_loss: Callable[..., Tensor]
) -> Tensor:
    """Compute the classification part of `RetinaNet.forward` and `RetinaNet.losses`, by steps."""
    if outputs[0].dim() == 4:
        outputs = [permute_to_N_HWA_K(x, num_classes) for x in outputs]
    valid = labels >= 0
    targets = F.one_hot(labels[valid], num_classes=num_classes + 1)[:, :-1]
    logits = cat(outputs, dim=1)[valid]
    targets = targets.to(logits.dtype)
    return focal_loss(logits, targets, alpha=0.25, gamma=2.0, reduction="sum") / 100


def masked_steps(outputs: list[Tensor], labels: Tensor, num_classes: int) -> Tensor:
    """Compute the loss of :func:`stock_steps` with a mask instead of a selection of anchors."""
    if outputs[0].dim() == 4:
        outputs = [permute_to_N_HWA_K(x, num_classes) for x in outputs]
    sizes = [x.shape[1] for x in outputs]
    classes = torch.arange(num_classes)
    total = torch.zeros(())
    for logits, of_level in zip(outputs, labels.split(sizes, dim=1), strict=True):
        targets = (of_level.unsqueeze(-1) == classes).to(logits.dtype)
        p = logits.sigmoid()
        ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        p_t = p * targets + (1 - p) * (1 - targets)
        alpha_t = 0.25 * targets + 0.75 * (1 - targets)
        valid = (of_level >= 0).unsqueeze(-1)
        total = total + (alpha_t * ce * (1 - p_t) ** 2 * valid).sum()
    return total / 100


def ours(
    outputs: list[Tensor],
    labels: Tensor,
    loss: Any,
    quality: Tensor | None = None,
) -> Tensor:
    """Compute the classification loss as FocalRetinaNet does."""
    num_classes = outputs[0].shape[-1]
    if outputs[0].dim() == 4:
        num_classes = outputs[0].shape[1] // ANCHORS_PER_LOCATION
        outputs = [view_as_anchors(x, num_classes) for x in outputs]
    if not loss.any_layout:
        outputs = [x.flatten(1, -2) for x in outputs]
    if not (loss.decomposes or loss.any_layout):
        outputs = [cat(outputs, dim=1)]
    sizes = [x[0, ..., 0].numel() for x in outputs]

    def split(anchors: Tensor) -> list[Tensor]:
        levels = zip(anchors.split(sizes, dim=1), outputs, strict=True)
        return [level.reshape(x.shape[:-1]) for level, x in levels]

    given = split(quality) if quality is not None and loss.needs_quality else None
    return loss.of_levels(outputs, split(labels), quality=given, scale=0.01)


if __name__ == "__main__":
    main()
