"""Versions, machines and datasets of the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..runs.environment import Environment, RecordedData
from ..runs.run_folder import RunFolder

OF_TRIALS = " of trials"
"""End of the use of a dataset in trials, which is a split of a training set."""


@dataclass(frozen=True)
class Fact:
    """
    Property that every run recorded.

    Attributes:
        values: value as text -> number of runs, the most frequent first.
    """

    name: str
    values: dict[str, int]

    @property
    def differs(self) -> bool:
        """True if not all runs have the same value."""
        return len(self.values) > 1


@dataclass(frozen=True)
class DataSet:
    """
    Dataset as a run recorded it; None for all but its name if it is not a COCO json.

    Attributes:
        use: "train" or "test"; of trials, "train of trials" or "test of trials".
        sha256: digest of the annotation file.
    """

    use: str
    name: str
    sha256: str | None
    images: int | None
    annotations: int | None
    crowds: int | None
    classes: int | None


@dataclass(frozen=True)
class Provenance:
    """
    Provenance of all runs.

    Attributes:
        facts: versions, components from outside, commit, platform, device, threads.
        datasets: one entry for each recorded content of a dataset.
        recorded: number of runs that recorded anything.
    """

    facts: tuple[Fact, ...]
    datasets: tuple[DataSet, ...]
    recorded: int


def provenance(folders: Iterable[RunFolder]) -> Provenance:
    """Return the provenance of all runs that were started, in any state."""
    recorded = [(f.run.role, f.environment) for f in folders if f.environment is not None]
    facts = tuple(_facts([environment for _, environment in recorded]))
    datasets = tuple(
        dict.fromkeys(
            data for role, environment in recorded for data in _datasets(environment, role)
        )
    )
    return Provenance(facts, datasets, len(recorded))


def _facts(environments: list[Environment]) -> Iterable[Fact]:
    for name in dict.fromkeys(name for env in environments for name in env.versions):
        yield _fact(name, (env.versions.get(name) for env in environments))
    for name in dict.fromkeys(name for env in environments for name in env.components):
        digests = [env.components[name] for env in environments if name in env.components]
        yield _fact(name, (f"sha256 {digest[:12]}" for digest in digests))
    yield _fact("commit", map(_commit, environments))
    for name in ("platform", "device", "threads"):
        yield _fact(name, (getattr(env, name) for env in environments))


def _fact(name: str, values: Iterable[Any]) -> Fact:
    counts = Counter("not recorded" if value is None else str(value) for value in values)
    return Fact(name, dict(counts.most_common()))


def _commit(environment: Environment) -> str:
    git = environment.git
    if git is None or git.commit is None:
        return "no repository"
    return git.commit[:12] + (" with uncommitted changes" if git.dirty else "")


def _datasets(environment: Environment, role: str) -> Iterable[DataSet]:
    of_trials = OF_TRIALS if role == "tuning" else ""
    for use, recorded in (("train", environment.train), ("test", environment.test)):
        for data in recorded:
            yield _dataset(use + of_trials, data)


def _dataset(use: str, data: RecordedData) -> DataSet:
    return DataSet(
        use=use,
        name=data.name,
        sha256=data.json_sha256,
        images=data.images,
        annotations=data.annotations,
        crowds=data.crowds,
        classes=None if data.classes is None else len(data.classes),
    )
