"""Checks that weights, gradients and the numbers of an optimizer are finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..checks import check_option

LARGEST = torch.finfo(torch.float32).max
"""Largest number that an optimizer can use: beyond it, float32 weights become infinite."""


def check_solver(cfg: CfgNode) -> None:
    """
    Check that every number of `SOLVER` is finite in float32, and that no rate is negative.

    Raises:
        ValueError: one is not; the message names its key.
    """
    for key, value in _leaves(cfg.SOLVER, "SOLVER"):
        for number in value if isinstance(value, tuple | list) else (value,):
            unlimited = key.startswith("SOLVER.CLIP_GRADIENTS.") and number == math.inf
            if isinstance(number, int | float) and not (abs(number) <= LARGEST or unlimited):
                raise ValueError(
                    f"{key} must be a finite number, at most {LARGEST:.3g}, got {value!r:.80}"
                )
    for name in ("BASE_LR", "MOMENTUM", "WEIGHT_DECAY"):
        check_option(f"SOLVER.{name}", cfg.SOLVER[name], low=0)
    if cfg.SOLVER.WEIGHT_DECAY_BIAS is not None:  # None has no type, so text is possible
        check_option("SOLVER.WEIGHT_DECAY_BIAS", cfg.SOLVER.WEIGHT_DECAY_BIAS, low=0)


def weights_are_finite(model: nn.Module, *, gradients: bool = True) -> bool:
    """
    Return True if all weights are finite; usually with one synchronization with the GPU.

    Args:
        gradients: also require finite gradients.
    """
    found = [x.detach() for x in model.parameters()]
    if gradients:
        found += [x.grad for x in model.parameters() if x.grad is not None]
    found = [x for x in found if x.numel()]
    if not found:
        return True
    # A NaN or an infinity makes a sum nonfinite, and a sum is fast. But a sum may also overflow.
    if torch.isfinite(torch.stack([x.sum() for x in found])).all():
        return True
    return all(map(is_finite, found))


def wrong_weight(model: nn.Module) -> str:
    """Return a clause on the weights that are not finite, or ""."""
    bad = [name for name, x in model.named_parameters() if not is_finite(x)]
    if not bad:
        return ""
    others = f" and {len(bad) - 1} others" if len(bad) > 1 else ""
    return f"the weights of {bad[0]}{others} are not finite"


def wrong_option(optimizer: torch.optim.Optimizer) -> str:
    """Return a clause on an option of the optimizer that is not finite, or ""."""
    for group in optimizer.param_groups:
        for name, value in group.items():
            if isinstance(value, float) and not abs(value) <= LARGEST:
                return f"the optimizer's {name} is {value:g}"
    return ""


def _leaves(node: CfgNode, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield (full key, value)."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}", value


def is_finite(tensor: Tensor | None) -> bool:
    """Return True if all elements are finite, or if there is no tensor."""
    return tensor is None or bool(torch.isfinite(tensor).all())
