"""Models without initial values, for tests that build a model but never run it."""

from contextlib import contextmanager

import pytest
from torch import nn


@contextmanager
def uninitialized():
    """Turn every function of `torch.nn.init`, which initializes all parts, into a no-op."""
    with pytest.MonkeyPatch.context() as patch:
        for name in dir(nn.init):
            if name.endswith("_") and not name.startswith("_"):
                patch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)
        yield
