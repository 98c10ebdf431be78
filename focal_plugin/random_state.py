"""
Seeds that are derived from a purpose, for the generators of torch, numpy and Python.

A draw seeded by its purpose, such as (SEED, "sample", 17), does not depend on earlier draws or on
the process. The generators are restored afterwards.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_from(*key: int | str) -> int:
    """
    Derive a seed from a purpose: 63 bits of the SHA-256 of ``key``.

    Args:
        key: the purpose of the draw. 1 and "1" are different keys, as are ("a", "b") and ("ab",).

    Returns:
        an integer >= 0 and < 2**63, the same on every machine.
    """
    text = json.dumps([part if isinstance(part, str) else int(part) for part in key])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_all(*key: int | str) -> None:
    """Seed the generators of torch (the CPU's and those of all GPUs), numpy and Python."""
    _seed_cpu(*key)
    # Without a GPU, torch queues the call with a stack trace, which takes milliseconds.
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed_from(*key, "cuda"))


def _seed_cpu(*key: int | str) -> None:
    # All three use the same algorithm: with equal seeds, two of them could draw the same numbers.
    torch.default_generator.manual_seed(seed_from(*key, "torch"))
    np.random.seed(seed_from(*key, "numpy") % 2**32)
    random.seed(seed_from(*key, "python"))


@contextmanager
def generators_kept(device: str = "cpu") -> Iterator[None]:
    """
    Restore the generators of torch, numpy and Python on exit.

    Args:
        device: "cpu", or a GPU whose generator is restored too.
    """
    cuda = [device] if torch.device(device).type == "cuda" else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """
    Seed the CPU generators with ``key`` inside the context, and restore them on exit.

    The generators of GPUs are not touched. This keeps it cheap, and safe in forked processes.
    """
    with generators_kept():
        _seed_cpu(*key)
        yield
