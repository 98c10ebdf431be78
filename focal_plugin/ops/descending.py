"""
Order of the largest scores, without a sort of all scores.

Shape shorthand:
    P: number of rows
    C: scores of a row
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from . import descending_cpp, descending_eager
from .implementations import choose


class _Implementation(Protocol):
    """Interface of an implementation's module."""

    def why_not(self, device: torch.device) -> str | None: ...

    def descending(self, scores: Tensor, count: int) -> Tensor: ...


MODULES: dict[str, _Implementation] = {"cpp": descending_cpp, "eager": descending_eager}


@torch.no_grad()
def descending(scores: Tensor, count: int, *, impl: str = "auto") -> Tensor:
    """
    Return the indices of the ``count`` largest scores of each row, in descending order.

    Of equal scores the lower index comes first. `torch.topk` would choose among them by the device
    and the version.

    Args:
        scores: (P, C), float32. A NaN is not legal; infinities are.
        count: >= 0.
        impl: "cpp" (the extension; CPU), "eager" (PyTorch), or "auto", the first of these that is
            available.

    Returns:
        int64 (P, min(count, C)). The first columns do not depend on ``count``.

    Raises:
        ValueError: ``impl`` is none of these, or is not available on this device.
    """
    assert scores.dim() == 2
    assert scores.dtype == torch.float32
    return MODULES[_choose(impl, scores.device)].descending(scores, min(count, scores.shape[1]))


def _choose(impl: str, device: torch.device) -> str:
    def why_not(name: str) -> str | None:
        return MODULES[name].why_not(device) if name in MODULES else "it has no kernel for orders"

    return choose(impl, device, why_not)
