"""Config files, each of which is read once in a session."""

import contextlib
import functools
import pickle

import pytest

from focal_plugin import get_cfg
from focal_plugin.config import FocalCfgNode

from .conftest import ROOT

_load_yaml_with_base = FocalCfgNode.load_yaml_with_base.__func__


@functools.cache
def _load(file, allow_unsafe):
    return pickle.dumps(_load_yaml_with_base(FocalCfgNode, file, allow_unsafe))


@contextlib.contextmanager
def files_read_once():
    """In here a file that many configs are based on is parsed for the first of them only."""

    def load(_, file, allow_unsafe=False):
        return pickle.loads(_load(file, allow_unsafe))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FocalCfgNode, "load_yaml_with_base", classmethod(load))
        yield


@functools.cache
def _read(file):
    cfg = get_cfg()
    with files_read_once():
        cfg.merge_from_file(str(file))
    return pickle.dumps(cfg)  # to load it is faster than to clone a config


def read_cfg(file, *opts):
    """A config of one's own: that of a file in configs/ (or of any absolute path), and options."""
    cfg = pickle.loads(_read(ROOT / "configs" / file))
    cfg.merge_from_list(list(opts))
    return cfg
