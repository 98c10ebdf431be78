"""Which implementation of an operation is taken, and what each needs whatever the operation."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable

import torch

from ..checks import check_choice
from .extension import has_extension

IMPLEMENTATIONS = ("auto", "cpp", "triton", "eager")


def check_impl(impl: str) -> str:
    """
    Returns:
        ``impl``.

    Raises:
        ValueError: there is no such implementation.
    """
    return check_choice("impl", impl, IMPLEMENTATIONS)


def choose(impl: str, device: torch.device, why_not: Callable[[str], str | None]) -> str:
    """
    Args:
        impl: what is asked for.
        device: of the tensors.
        why_not: what hinders "cpp", "triton" or "eager"; None if nothing does.

    Returns:
        "cpp", "triton" or "eager".

    Raises:
        ValueError: ``impl`` is no implementation, or one that cannot be had here.
    """
    check_impl(impl)
    if impl == "auto":  # never Triton's interpreter, which takes tensors on a CPU, too
        fast = "triton" if device.type == "cuda" else "cpp"
        return fast if why_not(fast) is None else "eager"
    reason = why_not(impl)
    if reason is not None:
        raise ValueError(f"impl={impl!r} cannot be had: {reason}")
    return impl


def why_no_cpp(device: torch.device) -> str | None:
    """What hinders the extension on this device; None if nothing does."""
    if device.type != "cpu":
        return f"it is for tensors on the CPU, got {device}"
    if not has_extension():
        return "the extension is not built, see `focal-plugin doctor`"
    return None


def why_no_triton(device: torch.device) -> str | None:
    """What hinders Triton on this device; None if nothing does."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":  # Triton runs it in NumPy, wherever tensors are
        return None
    if device.type != "cuda":
        return f"it is for tensors on a GPU, got {device}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "Triton is for GPUs of compute capability 8.0 and more"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler, gcc or clang, to launch anything"
    return None
