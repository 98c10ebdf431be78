"""
The config node of this package: it reads YAML safely and explains unknown keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import detectron2
import yaml
from detectron2.config import CfgNode
from fvcore.common.config import CfgNode as FvcoreCfgNode

from .names import did_you_mean, shown
from .yaml_text import MERGE, children, compose, load, read_text

RENAMED = {
    "MODEL.FOCAL.CLS_LOSS.BETA": "MODEL.FOCAL.CLS_LOSS.FL_STAR_BETA",
    "MODEL.FOCAL.CLS_LOSS.EQL_GAMMA": "MODEL.FOCAL.CLS_LOSS.EQLV2_GAMMA",
    "MODEL.FOCAL.CLS_LOSS.EQL_MU": "MODEL.FOCAL.CLS_LOSS.EQLV2_MU",
    "MODEL.FOCAL.CLS_LOSS.EQL_ALPHA": "MODEL.FOCAL.CLS_LOSS.EQLV2_ALPHA",
    "MODEL.FOCAL.NORMALIZER_INIT": "MODEL.FOCAL.NORMALIZER.INIT",
    "MODEL.FOCAL.NORMALIZER_MOMENTUM": "MODEL.FOCAL.NORMALIZER.MOMENTUM",
    "MODEL.FOCAL.NORMALIZER_VALUE": "MODEL.FOCAL.NORMALIZER.VALUE",
    "MODEL.FOCAL.RPN.SAMPLING": "MODEL.FOCAL.RPN.MINING.NAME",
    "MODEL.FOCAL.RPN.CLS_WEIGHT": "MODEL.FOCAL.RPN.CLS_LOSS.WEIGHT",
    "MODEL.FOCAL.RPN.LOC_WEIGHT": "MODEL.FOCAL.RPN.BOX_LOSS.WEIGHT",
    "MODEL.FOCAL.ROI_HEADS.CLS_WEIGHT": "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.WEIGHT",
}
"""Old key -> new key. The RPN and the RoI heads have the options of a loss, too."""

RENAMED |= {
    old.replace("FOCAL.", f"FOCAL.{stage}."): new.replace("FOCAL.", f"FOCAL.{stage}.")
    for stage in ("RPN", "ROI_HEADS")
    for old, new in RENAMED.items()
    if old.startswith("MODEL.FOCAL.CLS_LOSS.")
}

NOW_A_NODE = "MODEL.FOCAL.NORMALIZER"

MAY_BE_NONE = {
    "SOLVER.WEIGHT_DECAY_BIAS",
    "MODEL.FOCAL.RPN.CLS_LOSS.ALPHA",
    "MODEL.FOCAL.RPN.BOX_LOSS.HUBER_DELTA",
    "MODEL.FOCAL.RPN.CROWD_THRESH",
    "MODEL.FOCAL.RPN.PRECISION_RECALL",
    "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.ALPHA",
}
"""Keys that are None by default, so that a config may set them back."""

MAX_FILES = 50
"""Most files that one config may read by its `_BASE_` and theirs."""
_files: ContextVar[list[str] | None] = ContextVar("files", default=None)


class FocalCfgNode(CfgNode):
    """
    Detectron2's `CfgNode` with four differences.

    * The error about an unknown key names the nearest one, and that about an old key the new one.
    * A node stays a node, and a value becomes None only if None means something for its key.
    * A config file cannot run code, unless the caller allows it.
    * A config file must be a local file, within the bounds of :mod:`.yaml_text`.
    """

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """
        Merge a file, with the interface of :meth:`CfgNode.merge_from_file`.

        Files of the installed Detectron2's model zoo may have tags that run code. Other files may
        have them only with ``allow_unsafe``.

        Raises:
            ValueError: the file, or a base of it, has such a tag, is a URL, or is no config.
        """
        _refuse_address(cfg_filename, "a config file")
        loaded = self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe)
        # before Detectron2 looks for the version of the config, which needs a node MODEL
        _refuse_old_keys(_full_keys(loaded))
        _refuse_other_kinds(self, _full_keys(loaded), f"{cfg_filename}: ")
        super().merge_from_file(cfg_filename, allow_unsafe=allow_unsafe)

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Load a file and its bases with the checks of :meth:`merge_from_file`."""
        files = _files.get()
        if files is None:
            token = _files.set([])
            try:
                return cls.load_yaml_with_base(filename, allow_unsafe=allow_unsafe)
            finally:
                _files.reset(token)
        files.append(filename)
        if len(files) > MAX_FILES:
            raise ValueError(
                f"{files[0]}: its _BASE_ leads back to itself, or to over {MAX_FILES} files"
            )
        _refuse_address(filename, "_BASE_")  # also from a YAML merge key
        # Detectron2's Base-RetinaNet.yaml has such a tag, and is as trusted as Detectron2's code
        allow_unsafe = allow_unsafe or _is_of_the_model_zoo(filename)
        _check_yaml(filename, read_text(Path(filename)), allow_unsafe=allow_unsafe)
        return super().load_yaml_with_base(filename, allow_unsafe=allow_unsafe)

    def merge_from_other_cfg(self, cfg_other: FvcoreCfgNode) -> Any:
        _refuse_old_keys(_full_keys(cfg_other))
        with _NearestKey(self):
            return super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list: list[Any]) -> Any:
        pairs = list(zip(cfg_list[::2], cfg_list[1::2], strict=False))
        _refuse_old_keys(pairs)
        _refuse_other_kinds(self, pairs)
        with _NearestKey(self):
            return super().merge_from_list(cfg_list)


def _check_yaml(file: str, text: str, *, allow_unsafe: bool) -> None:
    """Check form and values; this executes nothing and opens no other file."""
    root = compose(text, file)
    if not isinstance(root, yaml.MappingNode):
        is_what = "is empty" if root is None else f"holds no keys but a {root.id}"
        raise ValueError(f"{file} {is_what}; a config file is lines such as `KEY: value`")
    for key, value in root.value:
        if key.value == "_BASE_":
            _check_base(file, value)
    for node in () if allow_unsafe else _nodes(root):
        if node.tag not in _SAFE_TAGS:
            raise ValueError(
                f"{file}, line {node.start_mark.line + 1}: the tag "
                f"{node.tag.replace('tag:yaml.org,2002:', '!!')} may run code; write a plain "
                "value, or, if you have read the file, give --allow-unsafe-yaml"
            )
    if not allow_unsafe:
        load(text, file)
    for node in _nodes(root):
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag not in {"tag:yaml.org,2002:str", MERGE}:
                raise ValueError(
                    f"{file}, line {key.start_mark.line + 1}: a key must be text such as SEED, got "
                    f"{shown(key.value)}"
                )


_SAFE_TAGS = {*filter(None, yaml.SafeLoader.yaml_constructors), MERGE}


def _check_base(file: str, value: yaml.Node) -> None:
    names = value.value if isinstance(value, yaml.SequenceNode) else [value]
    for name in names:
        if name.tag != "tag:yaml.org,2002:str":
            raise ValueError(
                f"{file}, line {name.start_mark.line + 1}: _BASE_ must be the name of a file, or a "
                "list of them"
            )
        _refuse_address(name.value, f"{file}: _BASE_")


def _refuse_address(name: str, what: str) -> None:
    # anywhere in the name, because Detectron2 prepends the folder of the config to most names
    if re.search(r"[A-Za-z][A-Za-z0-9+.-]*://", name):
        raise ValueError(f"{what} must be a file on this machine, got {name}: download it first")


def _is_of_the_model_zoo(filename: str) -> bool:
    """Return True for the files that `detectron2.model_zoo.get_config_file` returns."""
    # resolved, because an installation from source has a link there
    zoo = (Path(detectron2.__file__).parent / "model_zoo/configs").resolve()
    return Path(filename).resolve().is_relative_to(zoo)


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """Yield every node once, however many aliases it has."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        waiting += children(node)


class _NearestKey:
    """Context that turns yacs' "Non-existent (config) key: X" into an error with a suggestion."""

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        message = str(error.args[0]) if error is not None and error.args else ""
        if not isinstance(error, (KeyError, AssertionError)) or "Non-existent" not in message:
            return
        unknown = message.rpartition(": ")[2]
        known = (key for key, _ in _full_keys(self._cfg))
        raise KeyError(
            f"Non-existent config key: {unknown}{did_you_mean(unknown, known)}"
        ) from None


def _full_keys(cfg: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (full key, value) of every node and every value."""
    for key, value in cfg.items():
        yield prefix + key, value
        if isinstance(value, dict):
            yield from _full_keys(value, f"{prefix}{key}.")


def _refuse_other_kinds(cfg: CfgNode, items: Iterable[tuple[str, Any]], place: str = "") -> None:
    """Raise an error if a node would become a value, or a value None."""
    for key, value in items:
        own: Any = cfg
        for name in str(key).split("."):
            own = own.get(name, _UNKNOWN) if isinstance(own, dict) else _UNKNOWN
        if isinstance(own, dict) and not isinstance(value, dict):
            raise ValueError(
                f"{place}{key} is a group of keys, got {shown(value)}; set one of its keys, such "
                f"as {key}.{next(iter(own), '')}"
            )
        if value in (None, "None") and own not in (None, _UNKNOWN) and key not in MAY_BE_NONE:
            raise ValueError(f"{place}{key} must not be None; it is {shown(own)} so far")


_UNKNOWN = object()


def _refuse_old_keys(items: Iterable[tuple[str, Any]]) -> None:
    for key, value in items:
        new = RENAMED.get(key)
        if key == NOW_A_NODE and not isinstance(value, dict):
            new = f"{key}.NAME"
        if new is not None:
            raise KeyError(f"config key {key} is now {new}")
