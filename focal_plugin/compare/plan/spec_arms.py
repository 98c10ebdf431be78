"""Arms and options of a spec, checked for their form; no config is read here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import arms as arms_by_name
from ...config_file import find_config_file
from ...names import did_you_mean, shown
from .arm_errors import each_arm

ARM_KEYS = ("config", "arm", "opts")
CONFIG_SUFFIXES = {".yaml", ".yml"}
MAX_NAME = 80
# Config key -> where the spec sets it, so that no option can contradict the spec
NOT_AN_OPTION = {
    "SEED": "use the key seeds",
    "OUTPUT_DIR": "each run has its own folder",
    "MODEL.FOCAL.INIT": "use the key initial_weights",
    "MODEL.FOCAL.DIAGNOSTICS.PERIOD": "use the key diagnostics",
}


@dataclass(frozen=True)
class ArmSpec:
    """
    A config, and what differs from it.

    Attributes:
        config_file: absolute path.
        names: arms of `focal_plugin.arms`, applied in this order.
        opts: KEY, VALUE, ... on top of them.
    """

    config_file: Path
    names: tuple[str, ...] = ()
    opts: tuple[str, ...] = ()


def check_names(given: Iterable[Any], known: Iterable[str], what: str) -> None:
    """
    Raise an error if a name is unknown.

    Raises:
        KeyError: a name is unknown; the message has the closest known one.
    """
    known = list(known)
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
            raise KeyError(f"no {what} is named {shown(name)}{hint}")


def read_arms(arms: Any, base: Any, folder: Path) -> dict[str, ArmSpec]:
    """
    Read the key `arms` of a spec.

    Args:
        base: config file of the arms that name no other one; None without one.
        folder: folder that files are relative to.

    Raises:
        ValueError: an arm is malformed.
        KeyError: an arm or a key does not exist.
        FileNotFoundError: a config file does not exist.
    """
    if not isinstance(arms, dict | list) or not arms:
        raise ValueError(
            "arms must be a list of arms by name, or map names to arms, config files or options"
        )
    base_file = None if base is None else _config_file(base, folder, "base")
    by_name = arms if isinstance(arms, dict) else _listed(arms)
    made = {}
    with each_arm() as of_arm:
        for name, arm in by_name.items():
            with of_arm(read_name(name, "arm")):
                made[name] = _arm(arm, base_file, folder)
    return made


def _listed(entries: list[Any]) -> dict[Any, Any]:
    """Return name -> arm for a list of names, of {group: GROUP}, and of {NAME: ARM}."""
    listed: dict[Any, Any] = {}
    of_groups: set[str] = set()
    for entry in entries:
        if isinstance(entry, dict) and len(entry) == 1:
            ((name, arm),) = entry.items()
        elif isinstance(entry, str):
            name, arm = entry.rpartition("/")[2], entry
        else:
            raise ValueError(
                f"arms: must be NAME, {{group: GROUP}} or {{NAME: ARM}}, got {shown(entry)}"
            )
        if name == "group":
            for member in arms_by_name.names_of_group(arm):
                short = member.rpartition("/")[2]
                if short not in listed:
                    listed[short] = member
                    of_groups.add(short)
        elif name in listed and name not in of_groups:
            raise ValueError(f"arms: {shown(name)} stands twice")
        else:
            listed[name] = arm  # an entry of its own replaces that of a group
            of_groups.discard(name)
    return listed


def read_name(name: Any, what: str) -> str:
    """
    Return a name of 1 to 80 visible characters.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(name, str):
        raise ValueError(f"{what} {shown(name)}: a name must be text; put it in quotes")
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        invisible = next((f": {c!a} is invisible" for c in name if not c.isprintable()), "")
        raise ValueError(
            f"{what} {shown(name)}: a name must have 1 to {MAX_NAME} visible characters{invisible}"
        )
    return name


def _arm(arm: Any, base: Path | None, folder: Path) -> ArmSpec:
    if isinstance(arm, str):
        arm = {"config": arm} if Path(arm).suffix else {"arm": arm}
    if isinstance(arm, list):
        arm = {"opts": arm}
    if not isinstance(arm, dict):
        raise ValueError(
            f"must be the name of an arm, a config file, [KEY, VALUE, ...] on top of base, "
            f"or {{config: FILE, arm: NAME, opts: [KEY, VALUE, ...]}}, got {shown(arm)}"
        )
    check_names(arm, ARM_KEYS, "key")
    names = _arm_names(arm.get("arm", []))
    config_file = _config_file(arm["config"], folder, "config") if "config" in arm else base
    if config_file is None:
        raise ValueError("names no config file, and there is no base")
    return ArmSpec(config_file, names, read_opts(arm.get("opts", []), "opts"))


def _arm_names(names: Any) -> tuple[str, ...]:
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ValueError(f"arm must be a name, or a list of names, got {shown(names)}")
    for name in listed:
        family, _, short = name.rpartition("/")
        check_names([short], arms_by_name.names(family or None), "arm")
    return tuple(listed)


def _config_file(text: Any, folder: Path, place: str) -> Path:
    if not isinstance(text, str) or Path(text).suffix not in CONFIG_SUFFIXES:
        raise ValueError(f"{place} must name a .yaml config file, got {shown(text)}")
    try:
        return find_config_file(text, folder).resolve()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{place}: {error}") from None


def read_opts(opts: Any, place: str) -> tuple[str, ...]:
    """
    Return KEY, VALUE, ... in the form of a command line.

    Raises:
        ValueError: ``opts`` is no such list, a key is given twice, or has another place in a spec.
    """
    if not isinstance(opts, list) or len(opts) % 2:
        raise ValueError(f"{place}: options must be a list [KEY, VALUE, ...], got {shown(opts)}")
    keys, values = opts[::2], opts[1::2]
    seen: set[str] = set()
    for key in keys:
        if not isinstance(key, str):
            raise ValueError(
                f"{place}: options must be [KEY, VALUE, ...], got the key {shown(key)}"
            )
        if key in NOT_AN_OPTION:
            raise ValueError(f"{place}: {key} is not an option: {NOT_AN_OPTION[key]}")
        if key in seen:
            raise ValueError(f"{place}: {key} is given twice")
        seen.add(key)
    pairs = zip(keys, values, strict=True)
    return tuple(part for key, value in pairs for part in (key, _value(value, f"{place}: {key}")))


def _value(value: Any, place: str) -> str:
    """Return text unchanged, so that "(320, 380)" is a tuple, and the repr of anything else."""
    if isinstance(value, str):
        return value
    _check_plain(value, place)
    return repr(value)


def _check_plain(value: Any, place: str) -> None:
    if isinstance(value, list):
        for element in value:
            _check_plain(element, place)
    elif value is not None and not isinstance(value, str | bool | int | float):
        raise ValueError(f"{place} must be a number, text, true, false, null or a list of these")
