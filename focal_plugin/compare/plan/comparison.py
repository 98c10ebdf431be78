"""What a comparison consists of: runs, each an arm with a seed, and the file that lists them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...files import write_json

PLAN_FILE = "comparison.json"
ROLES = ("equal", "tuning", "best")
"""
Why there is a run: it is one of the arms as they stand, all at the same learning rate; it tries a
learning rate for its arm; or it trains its arm at the best rate of those tried.
"""


@dataclass(frozen=True)
class Run:
    """
    One arm with one seed.

    Attributes:
        arm: its name, any text.
        seed: of weights and of data.
        config_file: absolute path.
        opts: KEY, VALUE, ... on top of it, the seed among them; all but OUTPUT_DIR.
        datasets: `NAME=JSON:IMAGES` for `train_net.py --dataset`.
        config_hash: of the resolved config and of the annotations of ``datasets``, hexadecimal.
        iterations: `SOLVER.MAX_ITER`.
        role: one of :data:`ROLES`.
        lr_factor: what the learning rate of the arm was multiplied by.
    """

    arm: str
    seed: int
    config_file: str
    opts: tuple[str, ...]
    datasets: tuple[str, ...]
    config_hash: str
    iterations: int
    role: str = "equal"
    lr_factor: float = 1.0

    @property
    def id(self) -> str:
        """The name of the folder: safe whatever the arm is called, another for another config."""
        return f"{slug(self.arm)}-seed{self.seed}-{self.config_hash[:8]}"

    @property
    def name(self) -> str:
        """For people."""
        rate = "" if self.lr_factor == 1.0 else f" lr x {self.lr_factor:g}"
        return f"{self.arm}{rate} seed {self.seed}"


@dataclass(frozen=True)
class Comparison:
    """
    All runs of a comparison.

    Attributes:
        name: that of the spec file.
        arms: their names, in the order of the spec.
        reference: the arm that the others are compared with.
        seeds: in the order of the spec.
        runs: those of role "equal", then "tuning", then, as soon as they are known, "best" (an arm
            that is best at factor 1 has none: its "equal" runs are its best ones).
        lr_factors: the grid of learning rates, () if none is tuned.
    """

    name: str
    arms: tuple[str, ...]
    reference: str
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    lr_factors: tuple[float, ...] = ()

    def of_role(self, role: str) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.role == role)

    def with_runs(self, runs: tuple[Run, ...]) -> Comparison:
        """The same with ``runs`` at the end."""
        return replace(self, runs=(*self.runs, *runs))

    def write(self, folder: Path) -> None:
        """As `comparison.json`, which is all that a report needs to know of the spec."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PLAN_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """
        Raises:
            FileNotFoundError: ``folder`` has no comparison in it.
        """
        file = folder / PLAN_FILE
        if not file.exists():
            raise FileNotFoundError(f"{folder} holds no comparison: there is no {PLAN_FILE} in it")
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        runs = tuple(Run(**_with_tuples(run)) for run in content.pop("runs"))
        return cls(**_with_tuples(content), runs=runs)


def slug(name: str) -> str:
    """
    ``name`` as part of a file's name: letters, digits and `. _ -`, no leading dot, at most 64; one
    that had to be changed ends with a hash, so that two names never become the same.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:64]
    if plain == name:
        return plain
    return f"{plain[:56]}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _with_tuples(content: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
