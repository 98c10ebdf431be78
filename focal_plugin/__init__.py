"""
Focal loss and its rivals as components of Detectron2; importing this registers all of them.

    from focal_plugin import get_cfg
"""

import sys

# The doctor must run where Detectron2, or even torch, cannot be imported.
if not (
    any(argument.endswith("focal_plugin.doctor") for argument in sys.orig_argv)
    or (sys.argv[0].endswith("focal-plugin") and sys.argv[1:2] == ["doctor"])
):
    from .doctor import explain_failed_import

    with explain_failed_import():
        from . import data, losses, mining, modeling
        from .config import add_focal_config, get_cfg

    __all__ = ["add_focal_config", "data", "get_cfg", "losses", "mining", "modeling"]
