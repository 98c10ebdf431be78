"""
Greedy suppression of overlapping boxes (non-maximum suppression), for several images at once.

Shape shorthand:
    P: number of lists
    V: boxes of a list
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from . import suppression_cpp, suppression_eager
from .implementations import choose


class _Implementation(Protocol):
    """Interface of an implementation's module."""

    def why_not(self, device: torch.device) -> str | None: ...

    def suppress(
        self, boxes: Tensor, groups: Tensor, competing: Tensor, threshold: float
    ) -> Tensor: ...


MODULES: dict[str, _Implementation] = {"cpp": suppression_cpp, "eager": suppression_eager}


@torch.no_grad()
def suppress(
    boxes: Tensor, groups: Tensor, competing: Tensor, *, threshold: float, impl: str = "auto"
) -> Tensor:
    """
    Suppress each box that overlaps a box before it too much, if nothing suppresses that one.

    The result is that of torchvision's `nms` for each group, bit for bit:

        IoU = overlap / (area + area - overlap),   suppressed if IoU > threshold

    A box without an area, or with a coordinate or an area that is not finite, suppresses none and
    is not suppressed: its IoU is 0 or NaN. The survivors of the first boxes do not depend on later
    ones, and stay survivors in a second call. So a longer list can continue a shorter one.

    Args:
        boxes: (P, V, 4), XYXY, float32, in the order of their rank.
        groups: int64 (P, V). Boxes of different groups do not suppress each other.
        competing: bool (P, V). All other boxes neither survive nor suppress.
        threshold: IoU, >= 0, compared in float64.
        impl: "cpp" (the extension; CPU), "eager" (torchvision's `nms`, group by group), or "auto",
            the first of these that is available.

    Returns:
        bool (P, V), the survivors.

    Raises:
        ValueError: ``impl`` is none of these, or is not available on this device.

    Note:
        "cpp" compares a box only with kept boxes of similar size and place. It returns the same
        bits for any number of threads. "eager" compares the kept boxes with all later ones on a
        CPU. On a GPU it compares all pairs, in V * V / 8 bytes, and synchronizes once a group. A
        loop over the kept boxes would not synchronize, but start about ten kernels for each box.
    """
    assert boxes.shape == (*groups.shape, 4)
    assert groups.shape == competing.shape
    return MODULES[_choose(impl, boxes.device)].suppress(boxes, groups, competing, threshold)


def _choose(impl: str, device: torch.device) -> str:
    def why_not(name: str) -> str | None:
        return MODULES[name].why_not(device) if name in MODULES else "it has no kernel for boxes"

    return choose(impl, device, why_not)
