"""C++ extension `torch.ops.focal_plugin`, present if `setup.py` found a compiler."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import torch

logger = logging.getLogger(__name__)


@functools.cache
def has_extension() -> bool:
    """Return True if the operators of `csrc/` are available. The first call loads them."""
    built = sorted(Path(__file__).parent.glob("_C*.so"))
    if not built:
        return False
    try:
        torch.ops.load_library(str(built[0]))
    except OSError as error:  # built against another PyTorch
        logger.warning(f"Cannot load {built[0].name}, run `pip install` again: {error}")
        return False
    return True
