"""
Focal loss and its rivals as components of Detectron2; importing this registers all of them.

    from focal_plugin import get_cfg
"""

import warnings
from importlib.metadata import version

from focal_plugin_doctor import explain_failed_import

from .compiler_import import compiler_import_deferred
from .garbage_collection import garbage_collection_paused

# PyTorch alone creates a million objects, and all of them stay.
with (
    warnings.catch_warnings(),
    explain_failed_import(),
    garbage_collection_paused(),
    compiler_import_deferred(),
):
    # Detectron2 scripts functions when it is imported, and new versions of PyTorch warn about it.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    from . import arms, components, data, losses, mining, modeling
    from .config import add_focal_config, get_cfg
    from .config_file import get_config_file

__version__ = version("focal_plugin")

__all__ = [
    "__version__",
    "add_focal_config",
    "arms",
    "components",
    "data",
    "get_cfg",
    "get_config_file",
    "losses",
    "mining",
    "modeling",
]

components.load_entry_points()  # last, because such a module imports this one
