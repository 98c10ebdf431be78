#!/usr/bin/env python3
r"""
Benchmark of the losses of a ranking: our streams against a loop over all positives.

    $ python tools/benchmarks/bm_ranking.py
    $ python tools/benchmarks/bm_ranking.py --size 512 512 --positives 10 --more-positives 300 2000

All variants compute value and gradient, from the outputs of the last convolution to the gradients
of these. "loop" joins all logits and visits the positives one by one, as the published code does.
It runs with the smaller number of positives only, because its time is proportional to it. All
variants of a loss give the same value, which is checked first.

Columns: "x loop" is how many times faster than the loop. "extra MiB" is the peak memory beyond the
logits, including the gradient.
"""

from __future__ import annotations

import argparse
import functools

import torch
from bm_dense_loss import ANCHORS_PER_LOCATION, backward, make_outputs
from harness import Work, add_arguments, extra_peaks_mib, report, take_turns
from torch import Tensor

from focal_plugin.losses import (
    ALRPLoss,
    APELoss,
    APLoss,
    ClassificationLoss,
    DRLoss,
    RankSortLoss,
)
from focal_plugin.modeling.retinanet import view_as_anchors
from focal_plugin.ops.extension import has_extension


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, rounds=3)
    parser.add_argument("--batch", type=int, default=2, help="images (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("H", "W"))
    parser.add_argument("--classes", type=int, default=80, help="K (default: %(default)s)")
    parser.add_argument("--positives", type=int, default=4, help="of all variants", metavar="P")
    parser.add_argument(
        "--more-positives", type=int, nargs="*", default=[300], help="of ours", metavar="P"
    )
    args = parser.parse_args()
    args.anchors, args.channels_last = None, False
    torch.set_num_threads(args.threads)

    outputs = make_outputs(args)
    pieces = {
        f"{name}, {positives} positives": works
        for positives in (args.positives, *args.more_positives)
        for name, works in variants(
            outputs, args, positives, with_loop=positives == args.positives
        ).items()
    }
    peaks = extra_peaks_mib(
        {
            f"{piece}: {name}": work
            for piece, works in pieces.items()
            for name, work in works.items()
        },
        args,
    )
    num_logits = sum(x.numel() for x in outputs)
    rows = []
    for piece, works in pieces.items():
        check_equal(works)
        timings = take_turns(works, args.rounds)
        for name, timing in timings.items():
            loop = timings.get("loop")
            rows.append(
                {
                    "loss": piece,
                    "variant": name,
                    "ms": timing.median_ms,
                    "p20": timing.p20_ms,
                    "p80": timing.p80_ms,
                    "CPU ms": timing.cpu_ms,
                    "x loop": loop and loop.median_ms / timing.median_ms,
                    "extra MiB": peaks[f"{piece}: {name}"],
                    "copies of the logits": peaks[f"{piece}: {name}"] * 2**18 / num_logits,
                }
            )
    print(f"{num_logits / 1e6:.2f} M logits, one copy of them {num_logits / 2**18:.0f} MiB")
    report(rows, file=args.json, num_logits=num_logits)


def variants(
    outputs: list[Tensor], args: argparse.Namespace, num_positives: int, *, with_loop: bool
) -> dict[str, dict[str, Work]]:
    """Return the variants of each loss, by name."""
    levels = [view_as_anchors(x, args.classes) for x in outputs]
    labels = make_labels(levels, num_positives)
    quality = [torch.full(x.shape, 0.8) for x in labels]

    def ours(loss: ClassificationLoss, impl: str | None = None) -> Work:
        if impl is not None:
            loss.impl = impl  # type: ignore[assignment]
        given = quality if loss.needs_quality else None
        return functools.partial(
            backward, lambda: loss.of_levels(levels, labels, quality=given), outputs
        )

    implementations = ["cpp", "eager"] if has_extension() else ["eager"]
    return {
        "AP": {
            **({"loop": functools.partial(loop, outputs, labels)} if with_loop else {}),
            **{f"ours, {impl}": ours(APLoss(), impl) for impl in implementations},
        },
        "aLRP": {"ours": ours(ALRPLoss())},
        "Rank & Sort": {"ours": ours(RankSortLoss())},
        "DR": {"ours": ours(DRLoss())},
        "APE": {"ours": ours(APELoss())},
    }


def make_labels(levels: list[Tensor], num_positives: int) -> list[Tensor]:
    """Return labels of each level: positives of random classes, 2 % ignored, else background."""
    generator = torch.Generator().manual_seed(1)
    sizes = [x[..., 0].numel() for x in levels]
    chosen = torch.randperm(sum(sizes), generator=generator)[: num_positives + sum(sizes) // 50]
    labels = torch.full((sum(sizes),), levels[0].shape[-1])
    labels[chosen] = -1
    labels[chosen[:num_positives]] = torch.arange(num_positives) % levels[0].shape[-1]
    return [y.view(x.shape[:-1]) for x, y in zip(levels, labels.split(sizes), strict=True)]


@torch.no_grad()
def loop(outputs: list[Tensor], labels: list[Tensor], delta: float = 1.0) -> tuple[Tensor, ...]:
    """Compute the gradient of the AP loss as published, one positive at a time, in float32."""
    num_classes = outputs[0].shape[1] // ANCHORS_PER_LOCATION
    levels = [view_as_anchors(x, num_classes) for x in outputs]
    logits = torch.cat([x.reshape(-1, num_classes) for x in levels])
    joined = torch.cat([x.flatten() for x in labels])
    positive = torch.zeros_like(logits, dtype=torch.bool)
    (has_class,) = ((joined >= 0) & (joined < num_classes)).nonzero(as_tuple=True)
    positive[has_class, joined[has_class]] = True
    gradient = torch.zeros_like(logits)
    scores = logits[positive]
    relevant = ~positive & (joined >= 0).unsqueeze(1) & (logits >= scores.min() - delta)
    negatives = logits[relevant]
    of_negatives, of_positives = torch.zeros_like(negatives), torch.zeros_like(scores)
    best = torch.zeros(())
    for i in scores.argsort():
        higher = ((scores - scores[i]) / (2 * delta) + 0.5).clamp(0, 1).sum() + 0.5
        above = ((negatives - scores[i]) / (2 * delta) + 0.5).clamp(0, 1)
        rank = higher + above.sum()
        precision = higher / rank
        if precision < best:
            above *= (1 - best) / (1 - precision)
        best = torch.maximum(best, precision)
        of_negatives += above / rank
        of_positives[i] = best - 1
    gradient[relevant] = of_negatives / len(scores)
    gradient[positive] = of_positives / len(scores)
    parts = gradient.split([x[..., 0].numel() for x in levels])
    return tuple(
        part.view(level.shape).permute(0, 3, 4, 1, 2).reshape(output.shape)
        for part, level, output in zip(parts, levels, outputs, strict=True)
    )


def check_equal(works: dict[str, Work]) -> None:
    """Check that all variants give the same gradient, but for rounding in float32."""
    first, *others = (work() for work in works.values())
    for other in others:
        for ours, theirs in zip(other, first, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


if __name__ == "__main__":
    main()
