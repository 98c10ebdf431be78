"""
Lets Detectron2's own, unmodified tools use this package.

    DETECTRON2_ENV_MODULE=focal_plugin.env  tools/train_net.py --config-file ...

Detectron2 imports the module that this variable names when it is imported itself, and calls its
`setup_environment`.
"""

import sys

from detectron2.config import defaults

from focal_plugin_doctor import has_compiled_ops

from .config import add_focal_config


def setup_environment() -> None:
    """Add our keys to the config that `detectron2.config.get_cfg` hands out."""
    add_focal_config(defaults._C)
    if not has_compiled_ops():
        # None makes its import fail, and Detectron2 then falls back to pycocotools by itself.
        # Python documents None, and typeshed declares modules alone.
        name = "detectron2.evaluation.fast_eval_api"
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
