"""Config files, each of which is read once in a session."""

import contextlib
import functools
import pickle

import pytest

from focal_plugin import arms, get_cfg
from focal_plugin.compare.plan.spec_arms import ArmSpec
from focal_plugin.compare.plan.spec_file import read_spec
from focal_plugin.config_node import FocalCfgNode

from .conftest import ROOT

_load_yaml_with_base = FocalCfgNode.load_yaml_with_base.__func__


@functools.cache
def _load(file, allow_unsafe):
    return pickle.dumps(_load_yaml_with_base(FocalCfgNode, file, allow_unsafe))


def load_once(_, file, allow_unsafe=False):
    """Do what `FocalCfgNode.load_yaml_with_base` does, but parse a file once in a process."""
    return pickle.loads(_load(file, allow_unsafe))


@contextlib.contextmanager
def files_read_once():
    """Parse a file that many configs are based on only once in this context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FocalCfgNode, "load_yaml_with_base", classmethod(load_once))
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


SHAPES = {
    "retinanet": ("catalogue", "second_catalogue"),
    "faster_rcnn": ("two_stage", "second_two_stage"),
}
COCO = {
    family: ROOT / f"configs/COCO-Detection/{family}_R_50_FPN_1x.yaml" for family in arms.FAMILIES
}


@functools.cache
def shapes_arms(family):
    """Return name -> `ArmSpec` of the comparisons of all arms on the built-in dataset."""
    files = [ROOT / f"configs/comparisons/{name}.yaml" for name in SHAPES[family]]
    return {name: arm for file in files for name, arm in read_spec(file).arms.items()}


@functools.cache
def coco_arms(family):
    """Return name -> `ArmSpec` of every arm on the base for COCO."""
    names = arms.names(family)
    return {name: ArmSpec(COCO[family], (f"{family}/{name}",)) for name in names}


def read_arm(arm, *opts):
    """Return the config of an `ArmSpec`, with options."""
    cfg = read_cfg(arm.config_file)
    arms.apply(cfg, *arm.names)
    cfg.merge_from_list([*arm.opts, *opts])
    return cfg
