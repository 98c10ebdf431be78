"""Config files, each of which is read once in a session."""

import functools

from focal_plugin import get_cfg

from .conftest import ROOT


@functools.cache
def _read(file):
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    return cfg


def read_cfg(file, *opts):
    """A config of one's own: that of a file in configs/ (or of any absolute path), and options."""
    cfg = _read(ROOT / "configs" / file).clone()
    cfg.merge_from_list(list(opts))
    return cfg
