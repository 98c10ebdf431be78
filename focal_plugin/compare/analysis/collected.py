"""Numbers of a report over several datasets or folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

from ..plan.collection import Collection
from .over_datasets import FEWEST_DATASETS, OverDatasets, over_datasets, with_left_out
from .ranks import Ranks, rank_arms
from .scores import Standing
from .summary import Summary


@dataclass(frozen=True)
class Collected:
    """
    Comparisons of the same arms on several datasets or folds, judged together.

    Attributes:
        kind: one of :data:`~focal_plugin.compare.plan.collection.KINDS`.
        arms: names, in the order of the spec.
        reference: arm that the others are compared with.
        members: dataset -> summary of the comparison on it, in the order of the spec.
        folders: dataset -> its folder below that of the collection.
        equal: all arms but the reference, at the settings of the spec.
        best: the same, each at its best setting; None without tuning.
        ranks: ranks of all arms; None for folds, for few datasets or for two arms.
        train_images, test_images: dataset -> images that its runs recorded; None before that.
    """

    name: str
    kind: str
    arms: tuple[str, ...]
    reference: str
    members: dict[str, Summary]
    folders: dict[str, str]
    equal: tuple[OverDatasets, ...]
    best: tuple[OverDatasets, ...] | None
    ranks: Ranks | None
    train_images: dict[str, int | None]
    test_images: dict[str, int | None]

    @property
    def margin(self) -> float | None:
        """Largest difference in AP that does not matter, percent; None without one."""
        return next(iter(self.members.values())).margin

    @property
    def complete(self) -> bool:
        """True if all runs are done."""
        return all(summary.complete for summary in self.members.values())


def collect(collection: Collection, members: Mapping[str, Summary]) -> Collected:
    """
    Judge the comparisons of a collection together.

    Args:
        members: dataset -> summary of the comparison on it, all with the same arms and reference.

    Raises:
        ValueError: the comparisons have other arms, because the spec has changed meanwhile.
    """
    first = next(iter(members.values()))
    for name, summary in members.items():
        if (summary.arms, summary.reference) != (first.arms, first.reference):
            raise ValueError(
                f"the comparison on {name} has other arms than the first; `focal-compare run` "
                "writes its plan again"
            )
    images = {use: _images(members, use) for use in ("train", "test")}
    ratios = _test_ratios(images) if collection.kind == "fold" else None
    equal = {name: summary.equal for name, summary in members.items()}
    best = {name: s.best for name, s in members.items() if s.best is not None}
    return Collected(
        name=collection.name,
        kind=collection.kind,
        arms=first.arms,
        reference=first.reference,
        members=dict(members),
        folders={member.name: member.folder for member in collection.members},
        equal=_judged(equal, first, ratios),
        best=_judged(best, first, ratios) if len(best) == len(members) else None,
        ranks=None if ratios is not None else _ranks(equal),
        train_images=images["train"],
        test_images=images["test"],
    )


def _judged(
    standings: Mapping[str, Standing], first: Summary, ratios: Mapping[str, float] | None
) -> tuple[OverDatasets, ...]:
    found = over_datasets(standings, first.reference, ratios, first.margin)
    if ratios is not None:
        return found
    return with_left_out(found, standings, first.reference, first.margin)


def _images(members: Mapping[str, Summary], use: str) -> dict[str, int | None]:
    """Return the images of the recorded datasets of one use; None for unknown numbers."""
    found: dict[str, int | None] = {}
    for name, summary in members.items():
        counts = [data.images for data in summary.provenance.datasets if data.use == use]
        known = [count for count in counts if count is not None]
        found[name] = sum(known) if known and len(known) == len(counts) else None
    return found


def _test_ratios(images: Mapping[str, Mapping[str, int | None]]) -> dict[str, float]:
    """Return test images over training images; of a fold that is not known, 1 / (folds - 1)."""
    ratios = {}
    for name, test in images["test"].items():
        train = images["train"][name]
        ratios[name] = test / train if test and train else 1 / (len(images["test"]) - 1)
    return ratios


def _ranks(standings: Mapping[str, Standing]) -> Ranks | None:
    """Return the ranks of the arms on the datasets on which all of them are finished."""
    ap = {
        name: {s.arm: mean(s.judged.values()) for s in standing.arms}
        for name, standing in standings.items()
        if all(s.judged and len(s.settled) == s.planned for s in standing.arms)
    }
    return rank_arms(ap, fewest_datasets=FEWEST_DATASETS)
