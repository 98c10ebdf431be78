"""
Arms: named differences that are applied to a base config.

An arm is a file `configs/arms/FAMILY/NAME.yaml`. It holds the config keys that differ, and a node
`ARM` that describes it::

    ARM:
      ABOUT: "OHEM: cross entropy of the 128 hardest anchors of an image after suppression."
      GROUP: "mining"
      PAPER: "Shrivastava et al. 2016, arXiv:1604.03540"     # optional
      BUILDS_ON: "ce"             # optional: this arm is applied first, and compared with
      REQUIRES: {MODEL.RETINANET.IN_FEATURES: ["p6", "p7"]}   # optional: names a list must contain
    MODEL:
      FOCAL:
        MINING:
          NAME: "OHEMMiner"

Any base of the family accepts an arm. The arms of the family `data` change no model, but the images
that it is trained on. Every base accepts them::

    from focal_plugin import arms, get_cfg

    cfg = get_cfg()
    cfg.merge_from_file("my_base.yaml")
    arms.apply(cfg, "ohem", "repeat_factor")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from . import yaml_text
from .config_file import FOLDER
from .names import did_you_mean, shown

FAMILIES = {"retinanet": "fl", "faster_rcnn": "stock"}
"""Family -> its reference, with which an arm is compared that builds on no other."""

DATA = "data"
"""Family of the arms that every detector accepts; the base is the reference of each."""

HEADER = "ARM"
_HEADER_KEYS = {"ABOUT", "GROUP", "PAPER", "BUILDS_ON", "REQUIRES"}

# Prefix of keys -> (the key that selects the component, names of Detectron2 that ignore them).
_IGNORED_BY = {
    "MODEL.FOCAL.RPN.": ("MODEL.PROPOSAL_GENERATOR.NAME", {"RPN", "RRPN", "PrecomputedProposals"}),
    "MODEL.FOCAL.ROI_HEADS.": (
        "MODEL.ROI_HEADS.NAME",
        {"StandardROIHeads", "CascadeROIHeads", "Res5ROIHeads", "RROIHeads"},
    ),
    "MODEL.FOCAL.ROI_BOX_HEAD.": ("MODEL.ROI_BOX_HEAD.NAME", {"", "FastRCNNConvFCHead"}),
    "MODEL.FOCAL.FPN.": (
        "MODEL.BACKBONE.NAME",
        {
            "build_resnet_backbone",
            "build_resnet_fpn_backbone",
            "build_retinanet_resnet_fpn_backbone",
        },
    ),
}


@dataclass(frozen=True)
class Arm:
    """
    A named difference.

    Attributes:
        name: name of its file, without the suffix.
        family: "retinanet" or "faster_rcnn": the detectors that it applies to; "data": all of them.
        about: one sentence.
        group: heading under which it is listed.
        paper: authors, year, and table or equation where there is one; "" if there is no paper.
        builds_on: name of the arm that is applied first, or None.
        requires: config key -> values that the list of the base must contain.
        changes: full config key -> value, without those of the arm that it builds on.
    """

    name: str
    family: str
    about: str
    group: str
    paper: str
    builds_on: str | None
    requires: Mapping[str, tuple[str, ...]]
    changes: Mapping[str, Any]

    @property
    def reference(self) -> str | None:
        """
        Name of the arm that it is compared with.

        None for the reference of a family, and for an arm of `data`, whose reference is its base.
        """
        of_family = FAMILIES.get(self.family)
        return self.builds_on or (None if self.name == of_family else of_family)

    @property
    def all_changes(self) -> dict[str, Any]:
        """Full config key -> value, with those of the arms that it builds on."""
        inherited = load(self.builds_on, self.family).all_changes if self.builds_on else {}
        return {**inherited, **self.changes}

    @property
    def opts(self) -> tuple[str, ...]:
        """KEY, VALUE, ... as on a command line."""
        return tuple(text for key, value in self.all_changes.items() for text in (key, repr(value)))

    def check(self, cfg: Any) -> None:
        """
        Check that a config is a base for this arm.

        Raises:
            ValueError: the config is of another family, a component of it ignores a key of the arm,
                or it lacks what the arm requires.
        """
        if self.family != DATA and self.family != (family := family_of(cfg)):
            raise ValueError(
                f"arm {self.name!r} is for {self.family}, but the base is for {family}"
            )
        changed = self.all_changes
        for prefix, (key, ignoring) in _IGNORED_BY.items():
            used = changed.get(key, _value(cfg, key))
            if used in ignoring and any(name.startswith(prefix) for name in changed):
                raise ValueError(
                    f"arm {self.name!r} sets {prefix}*, which {key} {used!r} of the base ignores"
                )
        for key, needed in self._all_requirements.items():
            missing = [name for name in needed if name not in changed.get(key, _value(cfg, key))]
            if missing:
                raise ValueError(
                    f"arm {self.name!r} requires {', '.join(missing)} in {key}, "
                    f"got {_value(cfg, key)}"
                )

    @property
    def _all_requirements(self) -> dict[str, tuple[str, ...]]:
        below = load(self.builds_on, self.family)._all_requirements if self.builds_on else {}
        return {**below, **self.requires}


def names(family: str | None = None) -> list[str]:
    """
    Return the names of all arms, or of those of a family.

    Raises:
        KeyError: there is no such family.
    """
    return sorted({name for each in _families(family) for name in _files(each)})


def load(name: str, family: str | None = None) -> Arm:
    """
    Load an arm by its name.

    Args:
        name: such as "ohem", or "retinanet/ohem".
        family: of the base; needed only for a name that both families have.

    Raises:
        KeyError: there is no such arm, the message names the nearest one; or both families have it.
        ValueError: its file has another form.
    """
    if "/" in name:
        family, _, name = name.partition("/")
    families = list(dict.fromkeys((*_families(family), DATA)))
    found = [each for each in families if name in _files(each)]
    if not found:
        known = names(family)
        of_family = "" if family is None else f" of {family}"
        raise KeyError(f"there is no arm {shown(name)}{of_family}{did_you_mean(name, known)}")
    if len(found) > 1:
        both = " and ".join(f"{each}/{name}" for each in found)
        raise KeyError(f"the arm {name!r} is ambiguous: there are {both}")
    return _read(found[0], name)


def load_all(family: str | None = None) -> Iterator[Arm]:
    """Load every arm, or every arm of a family, by name."""
    for each in _families(family):
        for name in sorted(_files(each)):
            yield _read(each, name)


def names_of_group(group: str) -> list[str]:
    """
    Return FAMILY/NAME of the arms under a heading, by name.

    Args:
        group: such as "box losses", or "retinanet/pyramid" for a heading that both families have.

    Raises:
        KeyError: there is no such group, the message names the nearest one; or both families have
            it.
    """
    family, _, heading = str(group).rpartition("/")
    groups: dict[str, dict[str, list[str]]] = {}
    for arm in load_all(family or None):
        groups.setdefault(arm.group, {}).setdefault(arm.family, []).append(arm.name)
    if heading not in groups:
        raise KeyError(f"there is no group of arms {shown(group)}{did_you_mean(heading, groups)}")
    if len(groups[heading]) > 1:
        both = " and ".join(f"{each}/{heading}" for each in groups[heading])
        raise KeyError(f"the group {group!r} is ambiguous: there are {both}")
    ((family, members),) = groups[heading].items()
    return [f"{family}/{name}" for name in members]


def load_for(cfg: Any, name: str) -> Arm:
    """
    Load the arm of that name that is for a config, and check that it applies.

    Raises:
        KeyError: there is no such arm.
        ValueError: the config is no base for it, see :meth:`Arm.check`.
    """
    family = DATA if name.rpartition("/")[2] in _files(DATA) else family_of(cfg)
    known = "/" not in name and name in _files(family)
    arm = load(name, family) if known else load(name)
    arm.check(cfg)
    return arm


def apply(cfg: Any, *names: str) -> list[str]:
    """
    Apply arms to a config, one after the other.

    Args:
        cfg: a config with our keys, such as `focal_plugin.get_cfg` returns.
        names: names of arms.

    Returns:
        The changes as KEY, VALUE, ..., as on a command line.

    Raises:
        KeyError: there is no such arm.
        ValueError: the config is no base for an arm, see :meth:`Arm.check`.
    """
    opts: list[str] = []
    for name in names:
        changes = load_for(cfg, name).opts
        cfg.merge_from_list(list(changes))
        opts += changes
    return opts


def family_of(cfg: Any) -> str:
    """
    Return the family that a config belongs to.

    Raises:
        ValueError: it belongs to none.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == "RetinaNet":
        raise ValueError(
            "arms need our RetinaNet: set MODEL.META_ARCHITECTURE to FocalRetinaNet, "
            "which is Detectron2's at the default keys"
        )
    family = {"FocalRetinaNet": "retinanet", "GeneralizedRCNN": "faster_rcnn"}.get(architecture)
    if family is None:
        raise ValueError(f"there are no arms for MODEL.META_ARCHITECTURE {architecture!r}")
    return family


def _families(family: str | None) -> tuple[str, ...]:
    """Return one family, or all of them for None."""
    known = (*FAMILIES, DATA)
    if family is not None and family not in known:
        raise KeyError(f"there is no family {shown(family)}; there are {', '.join(known)}")
    return known if family is None else (family,)


@cache
def _files(family: str) -> dict[str, Path]:
    return {file.stem: file for file in (FOLDER / "arms" / family).glob("*.yaml")}


@cache
def _read(family: str, name: str) -> Arm:
    file = _files(family)[name]
    content = yaml_text.load(yaml_text.read_text(file), str(file))
    header = content.pop(HEADER, None) if isinstance(content, dict) else None
    if not isinstance(header, dict) or not {"ABOUT", "GROUP"} <= header.keys() <= _HEADER_KEYS:
        raise ValueError(
            f"{file} must have a node {HEADER} with ABOUT and GROUP, "
            "and may have PAPER, BUILDS_ON and REQUIRES there"
        )
    return Arm(
        name=name,
        family=family,
        about=header["ABOUT"],
        group=header["GROUP"],
        paper=header.get("PAPER", ""),
        builds_on=header.get("BUILDS_ON"),
        requires={key: tuple(values) for key, values in header.get("REQUIRES", {}).items()},
        changes=dict(_leaves(content)),
    )


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(cfg: Any, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg
