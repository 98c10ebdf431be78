"""
The config node of this package: it reads YAML safely and explains unknown keys.
"""

from __future__ import annotations

import contextlib
import functools
import numbers
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
from .yaml_text import MERGE, children, compose, construct, read_text

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

_ONE_PER_CLASS = "a list of numbers, one for each class,"

MAY_BE_AUTO = {
    **{
        f"MODEL.FOCAL.{stage}CLS_LOSS.CLASS_ALPHA": _ONE_PER_CLASS
        for stage in ("", "RPN.", "ROI_HEADS.")
    },
    "MODEL.RETINANET.PRIOR_PROB": "a number in (0, 1)",
    "MODEL.FOCAL.RPN.PRIOR_PROB": "a number in (0, 1)",
}
"""Keys that also accept the text "auto" -> description of their other values."""

MAX_FILES = 50
"""Most files that one config may read by its `_BASE_` and theirs."""
_files: ContextVar[list[str] | None] = ContextVar("files", default=None)


class FocalCfgNode(CfgNode):
    """
    Detectron2's `CfgNode` with six differences.

    * A key that holds a float accepts an integer.
    * A key of :data:`MAY_BE_AUTO` changes between its own type and "auto".
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
        with _ExplainedErrors(self), _auto_allowed(self, _full_keys(cfg_other)):
            return super().merge_from_other_cfg(_as_floats(cfg_other, self))

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        try:
            return super()._decode_cfg_value(value)
        except (RecursionError, MemoryError):
            raise ValueError(f"the value {shown(value)} is nested too deep") from None

    def merge_from_list(self, cfg_list: list[Any]) -> Any:
        _check_pairs(cfg_list)
        pairs = list(zip(cfg_list[::2], cfg_list[1::2], strict=True))
        _refuse_old_keys(pairs)
        given = [(key, _as_float(self._decode_cfg_value(x), _get(self, key))) for key, x in pairs]
        # a mapping would replace a node with all its keys
        as_values = ((key, repr(x) if isinstance(x, dict) else x) for key, x in given)
        _refuse_other_kinds(self, as_values)
        with _ExplainedErrors(self), _auto_allowed(self, given):
            for key, _ in pairs:
                _check_parents(self, key)
            return super().merge_from_list([part for pair in given for part in pair])


@contextlib.contextmanager
def _auto_allowed(cfg: CfgNode, items: Iterable[tuple[str, Any]]) -> Iterator[None]:
    """
    Let keys of :data:`MAY_BE_AUTO` change between their own type and "auto" in this context.

    yacs compares the types of the old and the new value, unless the old one is None. After an
    error, the keys have their old values.

    Raises:
        ValueError: such a key gets another kind of value.
    """
    given = {key: cfg._decode_cfg_value(value) for key, value in items if key in MAY_BE_AUTO}
    for key, value in given.items():
        is_list = MAY_BE_AUTO[key] == _ONE_PER_CLASS
        own_type = isinstance(value, list | tuple if is_list else numbers.Real)
        if value != "auto" and (not own_type or isinstance(value, bool)):
            raise ValueError(f"{key} must be {MAY_BE_AUTO[key]} or auto, got {shown(value)}")
    changing = {
        key: old
        for key, value in given.items()
        if (value == "auto") != ((old := _get(cfg, key)) == "auto")
    }
    for key in changing:
        _set(cfg, key, None)
    try:
        yield
    except BaseException:
        for key, old in changing.items():
            _set(cfg, key, old)
        raise


def _set(cfg: CfgNode, full_key: str, value: Any) -> None:
    node, _, name = full_key.rpartition(".")
    _get(cfg, node)[name] = value


def _check_pairs(cfg_list: list[Any]) -> None:
    for key in cfg_list[::2]:
        if str(key).startswith("-"):
            raise ValueError(f"the flag {key} must come before the KEY VALUE pairs of the config")
    if len(cfg_list) % 2:
        raise ValueError(f"KEY VALUE pairs are required, but {cfg_list[-1]!r} has no value")


def _check_parents(cfg: Mapping[str, Any], full_key: str) -> None:
    """Raise yacs' own error for a key below a value, where yacs itself fails."""
    parent = full_key.rpartition(".")[0]
    if parent and not isinstance(_get(cfg, parent), Mapping):
        raise KeyError(f"Non-existent key: {full_key}")


def _as_floats(given: FvcoreCfgNode, current: Mapping[str, Any]) -> FvcoreCfgNode:
    """Return a copy of ``given`` with a float for each integer whose key holds a float."""
    converted = type(given)()
    for key, value in given.items():
        now = current.get(key)
        if isinstance(value, FvcoreCfgNode) and isinstance(now, Mapping):
            converted[key] = _as_floats(value, now)
        else:
            converted[key] = _as_float(value, now)
    return converted


def _as_float(value: Any, current: Any) -> Any:
    """Return ``value`` as a float if it is an integer and ``current`` is a float."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if is_integer and isinstance(current, float):
        with contextlib.suppress(OverflowError):  # the type is then an error
            return float(value)
    return value


def _get(cfg: Mapping[str, Any], full_key: str) -> Any:
    """Return the value of a full key, or None if there is no such key."""
    value: Any = cfg
    for part in full_key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


@functools.lru_cache(MAX_FILES)  # many configs have the same base, and each is loaded twice
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
        construct(root, file)
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


class _ExplainedErrors:
    """Context that adds a suggestion to yacs' errors about an unknown key or a wrong type."""

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        message = str(error.args[0]) if error is not None and error.args else ""
        full_key = message.rpartition(": ")[2]
        if isinstance(error, KeyError | AssertionError) and "Non-existent" in message:
            known = (key for key, _ in _full_keys(self._cfg))
            raise KeyError(
                f"Non-existent config key: {full_key}{did_you_mean(full_key, known)}"
            ) from None
        if isinstance(error, ValueError) and message.startswith("Type mismatch"):
            raise ValueError(_wrong_type(full_key, _get(self._cfg, full_key), message)) from None


def _wrong_type(full_key: str, current: Any, message: str) -> str:
    given = message.partition(f"({current} vs. ")[2].removesuffix(f") for config key: {full_key}")
    if isinstance(current, dict):
        return f"{full_key} holds other keys, such as {full_key}.{next(iter(current))}; got {given}"
    example = current if current or not isinstance(current, tuple | list) else ("name",)
    return f"{full_key} must be a {type(current).__name__}, such as {example!r}, got {given}"


def _full_keys(cfg: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (full key, value) of every node and every value."""
    for key, value in cfg.items():
        yield prefix + key, value
        if isinstance(value, dict):
            yield from _full_keys(value, f"{prefix}{key}.")


def _refuse_other_kinds(cfg: CfgNode, items: Iterable[tuple[str, Any]], place: str = "") -> None:
    """Raise an error if a node would become a value, or a value None."""
    for key, value in items:
        own = _get(cfg, str(key))
        if isinstance(own, dict) and not isinstance(value, dict):
            raise ValueError(
                f"{place}{key} holds other keys, such as {key}.{next(iter(own), '')}; got "
                f"{shown(value)}"
            )
        if value in (None, "None") and own is not None and key not in MAY_BE_NONE:
            raise ValueError(f"{place}{key} must not be None; it is {shown(own)} so far")


def _refuse_old_keys(items: Iterable[tuple[str, Any]]) -> None:
    for key, value in items:
        new = RENAMED.get(key)
        if key == NOW_A_NODE and not isinstance(value, dict):
            new = f"{key}.NAME"
        if new is not None:
            raise KeyError(f"config key {key} is now {new}")
