"""
Average precision of one class for many weights of the images at once.

Shape shorthand:
    T: IoU thresholds
    N: detections
    I: images
    B: rows of weights
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from . import weighted_ap_cpp, weighted_ap_eager
from .implementations import choose


class _Implementation(Protocol):
    """Interface of an implementation's module."""

    def why_not(self, device: torch.device) -> str | None: ...

    def weighted_ap(
        self, matched: Tensor, ignored: Tensor, image: Tensor, weights: Tensor, objects: Tensor
    ) -> Tensor: ...


MODULES: dict[str, _Implementation] = {"cpp": weighted_ap_cpp, "eager": weighted_ap_eager}


@torch.no_grad()
def weighted_ap(
    matched: Tensor,
    ignored: Tensor,
    image: Tensor,
    weights: Tensor,
    objects: Tensor,
    *,
    impl: str = "auto",
) -> Tensor:
    """
    Return average precision and final recall.

    They are those of pycocotools, with sums of weights in place of numbers of detections:

        precision = right / (shown + 2**-52),   recall = right / objects

    The average is over the recalls 0, .01, ... 1. At each, it takes the largest precision at that
    recall or above, or 0.

    All tensors are contiguous.

    Args:
        matched: bool (T, N), detections by descending score that found an object.
        ignored: bool (T, N), detections that count neither as right nor as wrong.
        image: int32 (N,), index of the image in the weights.
        weights: float64 (I, B), weight of the images, >= 0.
        objects: float64 (B,), weighted number of objects.
        impl: "cpp" (the extension; CPU), "eager" (NumPy; CPU), or "auto", the first of these that
            is available.

    Returns:
        float64 (2, B, T), precision and recall; NaN for a row without objects.

    Raises:
        ValueError: ``impl`` is none of these, or is not available on this device.

    Note:
        Both implementations give the same recall for whole weights. Their precisions are sums in a
        different order. Neither starts a thread, so both work in a fork.
    """
    assert matched.shape == ignored.shape == (matched.shape[0], *image.shape)
    assert weights.shape[1:] == objects.shape
    return MODULES[_choose(impl, weights.device)].weighted_ap(
        matched, ignored, image, weights, objects
    )


def _choose(impl: str, device: torch.device) -> str:
    def why_not(name: str) -> str | None:
        return MODULES[name].why_not(device) if name in MODULES else "it has no kernel for AP"

    return choose(impl, device, why_not)
