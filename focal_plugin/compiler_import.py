"""
Import of torchvision without the compiler of PyTorch, which takes as long as PyTorch itself.

`torchvision.ops` imports one function of `torch._dynamo.utils`, which says whether a device can
compile. Only a deterministic RoIAlign on a GPU calls it. The import brings eight hundred modules.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

NAME = "torch._dynamo.utils"
DEFERRED = "is_compile_supported"


@contextlib.contextmanager
def compiler_import_deferred() -> Iterator[None]:
    """
    Let `from torch._dynamo.utils import is_compile_supported` import nothing inside the context.

    The function imports the module when it is called. Any other use of the module imports it at
    once, and so does every import after the context.
    """
    if NAME in sys.modules:
        yield
        return
    stand_in = sys.modules[NAME] = _StandIn(NAME)
    try:
        yield
    finally:
        if sys.modules.get(NAME) is stand_in:
            del sys.modules[NAME]


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        if name == DEFERRED:
            return lambda device: getattr(_imported(), DEFERRED)(device)
        return getattr(_imported(), name)


def _imported() -> ModuleType:
    if isinstance(sys.modules.get(NAME), _StandIn):
        del sys.modules[NAME]
    return importlib.import_module(NAME)
