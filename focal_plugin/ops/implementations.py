"""Choice of an operation's implementation, and the requirements of each implementation."""

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
    Return ``impl`` if it is the name of an implementation.

    Raises:
        ValueError: there is no such implementation.
    """
    return check_choice("impl", impl, IMPLEMENTATIONS)


def choose(impl: str, device: torch.device, why_not: Callable[[str], str | None]) -> str:
    """
    Choose an implementation.

    Args:
        impl: the requested implementation.
        device: the device of the tensors.
        why_not: function from "cpp", "triton" or "eager" to the reason why it cannot be used, or
            None.

    Returns:
        "cpp", "triton" or "eager".

    Raises:
        ValueError: ``impl`` is unknown, or is not available here.
    """
    check_impl(impl)
    if impl == "auto":  # never Triton's interpreter, which also accepts tensors on a CPU
        fast = "triton" if device.type == "cuda" else "cpp"
        return fast if why_not(fast) is None else "eager"
    reason = why_not(impl)
    if reason is not None:
        raise ValueError(f"impl={impl!r} is not available: {reason}")
    return impl


def why_no_cpp(device: torch.device) -> str | None:
    """Return the reason why the extension cannot be used on this device, or None."""
    if device.type != "cpu":
        return f"it requires tensors on the CPU, got {device}"
    if not has_extension():
        return "the extension is not built, see `focal-plugin doctor`"
    return None


def why_no_triton(device: torch.device) -> str | None:
    """Return the reason why Triton cannot be used on this device, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":  # Triton runs in NumPy, on any device
        return None
    if device.type != "cuda":
        return f"it requires tensors on a GPU, got {device}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "Triton requires a GPU of compute capability 8.0 or higher"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton requires a C compiler, gcc or clang, to launch kernels"
    return None
