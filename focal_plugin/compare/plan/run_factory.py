"""Runs of a spec on one dataset, each with its resolved config."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from detectron2.config import CfgNode

from ...components import component_digests, import_components
from ...data import registered
from ...files import sha256_of
from .arm_errors import each_arm
from .comparison import Run
from .loss_weight import origin_of
from .parts import as_argument
from .resolved_config import read_config, resolve
from .setting import EQUAL, Origin, Setting
from .spec_file import Spec
from .tuning_split import TuningSplit, split_training_set

Check = Callable[[CfgNode, tuple[str, ...]], None]
"""Check of the config of an arm that is trained with some trainer flags."""


@dataclass(frozen=True)
class _Data:
    """
    Data of a run.

    Attributes:
        datasets: `NAME=JSON:IMAGES` of the registered datasets.
        digests: name -> digest of the annotations.
        ignored: categories that are ignore regions.
        opts: KEY, VALUE, ... that use the datasets.
    """

    datasets: tuple[str, ...]
    digests: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    opts: tuple[str, ...] = ()


class RunFactory:
    """
    Factory of the runs of a spec; it resolves the config of each arm once.

    Attributes:
        splits: training set -> split for the trials, as soon as a trial is made.
    """

    def __init__(self, spec: Spec, check: Check | None = None) -> None:
        self.grid = spec.grid
        self._spec = spec
        self._data = _Data(
            datasets=tuple(map(as_argument, spec.datasets)),
            digests={d.name: sha256_of(d.json_file) for d in spec.datasets},
            ignored=spec.ignore_categories,
        )
        self.splits: dict[str, TuningSplit] = {}
        self.origins: dict[str, Origin] = {}
        import_components(spec.imports)  # their config keys exist from now on
        self._opts: dict[str, tuple[str, ...]] = {}
        self.configs: dict[str, CfgNode] = {}
        self._changes: dict[tuple[str, tuple[str, ...]], CfgNode] = {}
        read = cache(read_config)
        with registered(spec.datasets, spec.ignore_categories), each_arm() as of_arm:
            for name, arm in spec.arms.items():
                with of_arm(name):
                    self._opts[name], self.configs[name] = resolve(arm, spec, read)
                    self._refuse_other_test(name)
                    if check is not None:
                        check(self.configs[name].clone(), spec.trainer_flags)
                    if spec.grid is not None:
                        self.origins[name] = origin_of(self.configs[name], spec.grid)
        self._refuse_same_configs()

    def first_runs(self) -> list[Run]:
        """Return the runs of role "equal": of the first look, or of all seeds."""
        seeds, design = self._spec.seeds.seeds, self._spec.seeds.design
        first = seeds if design is None else seeds[: design.looks[0]]
        return [self.run(arm, seed) for seed in first for arm in self._spec.arms]

    def trials(self) -> list[Run]:
        """Return the runs of role "tuning", which train and test on :attr:`splits`."""
        if self.grid is None:
            return []
        data = self._data_of_trials()
        return [
            self._run(arm, seed, "tuning", setting, data[arm])
            for seed in self.grid.seeds
            for arm in self._spec.arms
            for setting in self.grid.settings
        ]

    def run(self, arm: str, seed: int, role: str = "equal", setting: Setting = EQUAL) -> Run:
        """Return a run on the datasets of its arm."""
        return self._run(arm, seed, role, setting, self._data)

    def _run(self, arm: str, seed: int, role: str, setting: Setting, data: _Data) -> Run:
        changes = data.opts
        if setting != EQUAL:
            changes = (*self.origins[arm].options(setting), *changes)
        cfg = self._changed(arm, changes) if changes else self.configs[arm]
        return Run(
            arm=arm,
            seed=seed,
            config_file=str(self._spec.arms[arm].config_file),
            opts=(*self._opts[arm], *changes, "SEED", str(seed)),
            datasets=data.datasets,
            config_hash=self._hash(cfg, seed, data),
            iterations=cfg.SOLVER.MAX_ITER,
            role=role,
            setting=setting,
            imports=self._spec.imports,
            ignore_categories=data.ignored,
            trainer_flags=self._spec.trainer_flags,
        )

    def _changed(self, arm: str, changes: tuple[str, ...]) -> CfgNode:
        """Return the config of an arm with other values; the same for all seeds."""
        if (arm, changes) not in self._changes:
            cfg = self.configs[arm].clone()
            cfg.merge_from_list(list(changes))
            self._changes[arm, changes] = cfg
        return self._changes[arm, changes]

    def _data_of_trials(self) -> dict[str, _Data]:
        """Split the training sets of all arms, and return arm -> data of its trials."""
        found = {}
        with (
            registered(self._spec.datasets, self._spec.ignore_categories),
            each_arm() as of_arm,
        ):
            for arm, cfg in self.configs.items():
                with of_arm(arm):
                    if cfg.MODEL.LOAD_PROPOSALS:
                        raise ValueError("trials cannot use the proposals of MODEL.LOAD_PROPOSALS")
                    names = cfg.DATASETS.TRAIN
                    for name in names:
                        if name not in self.splits:
                            self.splits[name] = split_training_set(name)
                    found[arm] = _trial_data([self.splits[name] for name in names])
        return found

    def _hash(self, cfg: CfgNode, seed: int, data: _Data) -> str:
        """Return the hash of all that affects the result, without folders and dataset paths."""
        config = {**cfg, "SEED": seed, "OUTPUT_DIR": ""}
        others = filter(None, [component_digests(cfg), data.ignored])
        content = json.dumps([config, data.digests, *others], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def _refuse_same_configs(self) -> None:
        first: dict[str, str] = {}
        for arm, cfg in self.configs.items():
            same = first.setdefault(self._hash(cfg, 0, self._data), arm)
            if same != arm:
                raise ValueError(f"arms {same!r} and {arm!r} have the same config")

    def _refuse_other_test(self, arm: str) -> None:
        first = next(iter(self.configs))
        tests, expected = (self.configs[name].DATASETS.TEST for name in (arm, first))
        if tests != expected:
            raise ValueError(
                f"DATASETS.TEST is {tests}, but that of {first!r} is {expected}: an AP on other "
                "images cannot be compared"
            )


def _trial_data(splits: Sequence[TuningSplit]) -> _Data:
    """Return the data of trials; the ignore regions of the parts are crowd regions already."""
    parts = [part for split in splits for part in split.parts]
    train, val = ([getattr(split, use).dataset for split in splits] for use in ("train", "val"))
    return _Data(
        datasets=tuple(part.argument for part in parts),
        digests={part.dataset: part.sha256 for part in parts},
        opts=("DATASETS.TRAIN", str(tuple(train)), "DATASETS.TEST", str(tuple(val))),
    )
