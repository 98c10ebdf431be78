"""Registrations of a test, which disappear after it."""

import contextlib
import sys

from focal_plugin import components, registry
from focal_plugin.losses import BOX_LOSS_REGISTRY, CLS_LOSS_REGISTRY
from focal_plugin.mining import MINER_REGISTRY
from focal_plugin.modeling.balance import BALANCE_REGISTRY
from focal_plugin.modeling.normalizer import NORMALIZER_REGISTRY

REGISTRIES = (
    BALANCE_REGISTRY,
    BOX_LOSS_REGISTRY,
    CLS_LOSS_REGISTRY,
    MINER_REGISTRY,
    NORMALIZER_REGISTRY,
)


# The losses of a dense detector; the others read columns that only a box head has
DENSE_CLS_LOSSES = sorted(
    name for name, loss in CLS_LOSS_REGISTRY if loss().num_columns(1) == 1 + loss.softmax
)


@contextlib.contextmanager
def registrations_kept(folder):
    """Restore the registries, and forget the modules of a folder, afterwards."""
    maps = [dict(registry) for registry in REGISTRIES]
    lists = [registry.outside_components, components.imported, sys.path]
    copies = [list(kept) for kept in lists]
    try:
        yield
    finally:
        for kept, found in zip(REGISTRIES, maps, strict=True):
            kept._obj_map = found
        for kept, found in zip(lists, copies, strict=True):
            kept[:] = found
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(f"{folder}/"):
                del sys.modules[name]
