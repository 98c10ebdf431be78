"""The C++ extension, which is there where `setup.py` found a compiler: `torch.ops.focal_plugin`."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import torch

logger = logging.getLogger(__name__)


@functools.cache
def has_extension() -> bool:
    """Whether the operators of `csrc/` can be called; the first call loads them."""
    built = sorted(Path(__file__).parent.glob("_C*.so"))
    if not built:
        return False
    try:
        torch.ops.load_library(str(built[0]))
    except OSError as error:  # built against another PyTorch
        logger.warning(f"{built[0].name} does not load, run `pip install` again: {error}")
        return False
    return True
