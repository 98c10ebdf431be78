"""
Setup module that makes this package available to Detectron2's own, unmodified tools.

    DETECTRON2_ENV_MODULE=focal_plugin.env  tools/train_net.py --config-file ...

On import, Detectron2 imports the module that this variable names and calls its
`setup_environment`.
"""

import sys

from detectron2.config import defaults

from focal_plugin_doctor import has_compiled_ops

from .config import add_focal_config


def setup_environment() -> None:
    """Add the keys of this package to the config that `detectron2.config.get_cfg` returns."""
    add_focal_config(defaults._C)
    if not has_compiled_ops():
        # None makes the import fail, and Detectron2 then falls back to pycocotools.
        # Python documents None, but typeshed declares modules only.
        name = "detectron2.evaluation.fast_eval_api"
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
