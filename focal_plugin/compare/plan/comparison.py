"""Runs of a comparison, each one arm with one seed, and the file that lists them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ...data import parse_dataset_argument
from ...files import write_json
from ...json_file import DamagedFileError, read_object
from ...names import did_you_mean, shown
from ...run_folder import RESULT_FILE
from .design import FEWEST_SEEDS, Design
from .setting import EQUAL, Grid, Origin, Setting

PLAN_FILE = "comparison.json"
ROLES = ("equal", "tuning", "best")
"""
Purposes of a run. "equal" runs train every arm at the setting of its config. "tuning" runs try
settings for an arm, on a split of its training set. "best" runs train an arm at the best of these.
"""


@dataclass(frozen=True)
class Run:
    """
    One arm with one seed.

    Attributes:
        arm: its name, any text.
        seed: seed of the weights and of the data.
        config_file: absolute path.
        opts: KEY, VALUE, ... on top of the file, including the seed, without OUTPUT_DIR.
        datasets: `NAME=JSON:IMAGES`; a relative JSON file is below the folder of the comparison.
        config_hash: hash of the resolved config, of the annotations of ``datasets``, and of the
            source of the components from outside, hexadecimal.
        iterations: `SOLVER.MAX_ITER`.
        role: one of :data:`ROLES`.
        setting: learning rate and loss weight, relative to the config of the arm.
        imports: modules for `train_net.py --import`.
        ignore_categories: names for `train_net.py --ignore-category`.
        trainer_flags: flags of `train_net.py`, without dashes.
    """

    arm: str
    seed: int
    config_file: str
    opts: tuple[str, ...]
    datasets: tuple[str, ...]
    config_hash: str
    iterations: int
    role: str = "equal"
    setting: Setting = EQUAL
    imports: tuple[str, ...] = ()
    ignore_categories: tuple[str, ...] = ()
    trainer_flags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Name of the folder. It is safe for any arm name, and differs for another config."""
        return f"{slug(self.arm)}-seed{self.seed}-{self.config_hash[:8]}"

    @property
    def name(self) -> str:
        """Name for people: arm, factors of its setting other than 1, and seed."""
        return " ".join(filter(None, (self.arm, self.setting.name, f"seed {self.seed}")))

    def datasets_in(self, folder: Path) -> tuple[str, ...]:
        """Return `NAME=JSON:IMAGES` for `train_net.py --dataset`; ``folder`` is the comparison."""
        parsed = map(parse_dataset_argument, self.datasets)
        return tuple(f"{d.name}={folder / d.json_file}:{d.image_root}" for d in parsed)


@dataclass(frozen=True)
class Comparison:
    """
    All runs of a comparison.

    Attributes:
        name: name in the spec, or else of its file.
        arms: names, in the order of the spec.
        reference: arm that the others are compared with.
        seeds: seeds, in the order of the spec. With planned looks, those of the last look.
        runs: runs of role "equal", then "tuning", then "best" once they are known. An arm whose
            own setting is best has no "best" runs, because its "equal" runs are its best ones.
        grid: settings that the trials try; None without tuning.
        origins: arm -> values of its config that a setting multiplies; {} without tuning.
        design: when the results are judged; None: once, after all seeds. Seeds beyond its last look
            were added after a look at the results.
        margin: largest difference in AP that does not matter, percent; None without one.
        part: dataset or fold that it is about, of a spec on several; else "".
    """

    name: str
    arms: tuple[str, ...]
    reference: str
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    grid: Grid | None = None
    origins: dict[str, Origin] = field(default_factory=dict)
    design: Design | None = None
    margin: float | None = None
    part: str = ""

    @property
    def looks(self) -> Design:
        """The design, which is a single look at all seeds unless it says otherwise."""
        return self.design or Design((len(self.seeds),))

    def of_role(self, role: str) -> tuple[Run, ...]:
        """Return the runs of one of :data:`ROLES`."""
        return tuple(run for run in self.runs if run.role == role)

    def with_runs(self, runs: tuple[Run, ...]) -> Comparison:
        """Return a copy with ``runs`` at the end."""
        return replace(self, runs=(*self.runs, *runs))

    def with_reference(self, reference: str) -> Comparison:
        """
        Return a copy that compares with another arm.

        Raises:
            KeyError: there is no such arm; the message has the closest one.
        """
        if reference not in self.arms:
            hint = did_you_mean(reference, self.arms) or f"; arms: {', '.join(self.arms)}"
            raise KeyError(f"--reference {shown(reference)} is not an arm{hint}")
        return replace(self, reference=reference)

    def continuing(self, folder: Path) -> Comparison:
        """
        Return the comparison as a continuation of the one in ``folder``, if there is one.

        Further runs of the looks that were taken are kept. Seeds that are added to a comparison
        with finished runs are beyond its plan, so its design stays.
        """
        before = Comparison.read_if_any(folder)
        if before is None or (before.arms, before.reference) != (self.arms, self.reference):
            return self
        own, known = ({run.id for run in runs} for runs in (self.runs, before.runs))
        changed = {run.arm for run in self.runs if run.id not in known}
        if self.design is not None and self.design == before.design:
            further = (r for r in before.runs if r.role == "equal" and r.id not in own)
            return self.with_runs(tuple(r for r in further if r.arm not in changed))
        judged = before.looks.last >= FEWEST_SEEDS  # fewer gave no verdict to look at
        grown = judged and own & known and set(before.seeds) < set(self.seeds)
        if grown and any((folder / run.id / RESULT_FILE).exists() for run in before.runs):
            added = tuple(seed for seed in self.seeds if seed not in before.seeds)
            return replace(self, seeds=(*before.seeds, *added), design=before.looks)
        return self

    def write(self, folder: Path) -> None:
        """Write `comparison.json`, which holds all that a report requires of the spec."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PLAN_FILE, asdict(self))

    @classmethod
    def read_if_any(cls, folder: Path) -> Comparison | None:
        """Read `comparison.json`; None without one, or if it is damaged and is written anew."""
        try:
            return cls.read(folder)
        except (FileNotFoundError, ValueError):
            return None

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """
        Read `comparison.json`.

        Raises:
            FileNotFoundError: ``folder`` contains no comparison.
            ValueError: `comparison.json` is damaged.
        """
        file = folder / PLAN_FILE
        try:
            comparison = read_object(cls, file)
        except DamagedFileError as error:
            raise ValueError(f"{error}. Delete it; `focal-compare run` writes it again") from error
        if comparison is None:
            raise FileNotFoundError(f"{folder} holds no comparison: it has no {PLAN_FILE}")
        if comparison.reference not in comparison.arms:
            raise ValueError(f"{file} is damaged: its reference is not one of its arms")
        return comparison


def slug(name: str) -> str:
    """
    Return ``name`` as part of a file name: letters, digits and `. _ -`, no leading dot, at most 64.

    A name that has to change ends with a hash, so that two names never become equal.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:64]
    if plain == name:
        return plain
    return f"{plain[:56]}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
