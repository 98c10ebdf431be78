"""What to compare: a YAML file that names arms and seeds."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from ..config import get_cfg

KEYS = {"arms", "seeds", "opts"}
ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Run:
    """One arm with one seed: what to train, and the folder that holds all that comes of it."""

    arm: str
    seed: int
    config_file: Path
    opts: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.arm} seed {self.seed}"

    @property
    def all_opts(self) -> list[str]:
        return [*self.opts, "SEED", str(self.seed), "OUTPUT_DIR", str(self.folder)]

    def resolved_cfg(self) -> CfgNode:
        """
        Raises:
            KeyError: a key that does not exist.
        """
        cfg = get_cfg()
        cfg.merge_from_file(str(self.config_file))
        cfg.merge_from_list(self.all_opts)
        return cfg

    def fingerprint(self) -> str:
        """Hash of everything the config says but the folder's name."""
        cfg = self.resolved_cfg()
        cfg.OUTPUT_DIR = ""
        return hashlib.sha256(json.dumps(cfg, sort_keys=True).encode()).hexdigest()


def load_spec(spec_file: Path, output: Path) -> list[Run]:
    """
    Read a spec; every run's config is resolved once, so that a typo shows before anything runs.

    The file maps "arms" to {name: config file, relative to the spec}, "seeds" to a list of
    integers, and optionally "opts" to a list of `KEY, VALUE, ...` that all arms share.

    Args:
        output: folder of the runs; each gets `output/<arm>-seed<seed>`.

    Raises:
        ValueError: the file has another form.
        FileNotFoundError: the spec or an arm's config file is not there.
        KeyError: a config key does not exist.
    """
    try:
        spec = yaml.safe_load(spec_file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{spec_file} is not safe YAML: {error}") from error
    _check_form(spec, spec_file)
    opts = tuple(str(part) for part in spec.get("opts", ()))
    runs = []
    for seed in spec["seeds"]:
        for arm, config in spec["arms"].items():
            config_file = (spec_file.parent / config).resolve()
            if not config_file.is_file():
                raise FileNotFoundError(f"{spec_file}: arm {arm!r} names {config_file}")
            folder = output / f"{arm}-seed{seed}"
            runs.append(Run(arm, seed, config_file, opts, folder))
    for run in runs:
        tests = run.resolved_cfg().DATASETS.TEST
        if len(tests) != 1:
            raise ValueError(f"arm {run.arm!r}: DATASETS.TEST must name one data set, got {tests}")
    return runs


def _check_form(spec: Any, spec_file: Path) -> None:
    if not isinstance(spec, dict) or not {"arms", "seeds"} <= spec.keys() <= KEYS:
        raise ValueError(f"{spec_file} must be a mapping with arms and seeds (and opts)")
    arms, seeds, opts = spec["arms"], spec["seeds"], spec.get("opts", [])
    if not isinstance(opts, list) or len(opts) % 2:
        raise ValueError(f"{spec_file}: opts must be a list [KEY, VALUE, ...], got {opts!r}")
    if not isinstance(arms, dict) or not arms:
        raise ValueError(f"{spec_file}: arms must map a name to a config file")
    for name, config in arms.items():
        if not isinstance(name, str) or not ARM_NAME.fullmatch(name):
            raise ValueError(f"{spec_file}: arm {name!r}: use letters, digits and . _ - only")
        if not isinstance(config, str):
            raise ValueError(f"{spec_file}: arm {name!r} must name a config file, got {config!r}")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"{spec_file}: seeds must be a list of integers, got {seeds!r}")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"{spec_file}: a seed stands twice in {seeds}")
