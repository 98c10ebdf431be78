"""Diagnostics: the loss of each arm on the same anchors, before and after training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ...diagnostics.cdf import cumulative_loss
from ...diagnostics.snapshot import Snapshot, read_snapshot
from ...forked import in_processes, usable_processes
from ...run_folder import MOMENTS
from ..plan.comparison import Comparison
from ..runs.run_folder import RunFolder
from .problem import Problem, ProblemKind
from .scores import Spread

AUDIT = (
    "loss_pos",
    "loss_neg",
    "loss_sum",
    "divisor",
    "divided",
    "gradient_pos",
    "gradient_neg",
    "mean_probability",
    "easy_share",
    "easy_loss_share",
    "easy_gradient_share",
)
"""Attributes of a :class:`Snapshot` that the report shows as numbers."""

# Runs from which on the start of processes takes less time than it saves
_MANY_RUNS = 50

# Points of the curves, denser at the hardest anchors, which hold most of the loss
SHARES = np.unique(np.round(np.concatenate([np.linspace(0, 1, 101), np.linspace(0.99, 1, 51)]), 4))


@dataclass(frozen=True)
class LossView:
    """
    View of one dense loss of one arm at one moment, over the seeds.

    Attributes:
        part: "retinanet" or "rpn".
        moment: one of :data:`~focal_plugin.run_folder.MOMENTS`.
        loss, options, miner: components of the training.
        num_images, num_anchors: size of the snapshot of the first run.
        audit: name in :data:`AUDIT` -> value.
        cdf_pos, cdf_neg: share of the loss held by the easiest share :data:`SHARES` of positives
            (negatives), mean over the seeds; () without loss.
        gradient_edges: edges of the bins of abs(d loss / d logit); () if they differ between seeds.
        gradient_pos, gradient_neg: share of all elements in each bin, for the class of a positive
            and for all other elements.
        first_norms: gradient norm of all parameters in the first iterations, mean over the seeds.
    """

    arm: str
    part: str
    moment: str
    iteration: int
    loss: str
    options: str
    miner: str
    num_images: int
    num_anchors: int
    audit: dict[str, Spread]
    cdf_pos: tuple[float, ...]
    cdf_neg: tuple[float, ...]
    gradient_edges: tuple[float, ...]
    gradient_pos: tuple[float, ...]
    gradient_neg: tuple[float, ...]
    first_norms: tuple[float, ...]


@dataclass(frozen=True)
class LossViews:
    """
    Views of all losses.

    Attributes:
        views: views of the start, then of the end, each in the order of the arms.
        problems: snapshots that could not be read or compared.
    """

    views: tuple[LossView, ...]
    problems: tuple[Problem, ...]

    def of(self, part: str, moment: str) -> list[LossView]:
        """Return the views of one part at one moment."""
        return [v for v in self.views if (v.part, v.moment) == (part, moment)]

    @property
    def parts(self) -> list[str]:
        """Names of the dense parts, sorted."""
        return sorted({view.part for view in self.views})


@dataclass(frozen=True)
class _ViewsOfArm:
    """
    Views of one arm at one moment.

    Attributes:
        digests: part -> seed -> digest of the anchors of its snapshot.
        problems: snapshots that could not be read.
    """

    views: list[LossView]
    digests: dict[str, dict[int, str]]
    problems: list[Problem]


def loss_views(comparison: Comparison, folders: Mapping[str, list[RunFolder]]) -> LossViews:
    """Return the views of all runs with snapshots, including failed ones."""
    tasks = [(moment, arm) for moment in MOMENTS for arm in comparison.arms]

    def views_of(index: int) -> _ViewsOfArm:
        moment, arm = tasks[index]
        return _views_of_arm(arm, moment, folders[arm])

    worth_processes = sum(map(len, folders.values())) >= _MANY_RUNS
    results = in_processes(views_of, len(tasks), usable_processes() if worth_processes else 1)
    found = {task: result() for task, result in zip(tasks, results, strict=True)}
    others: dict[str, set[str]] = {}
    for moment in MOMENTS:
        digests = {arm: found[moment, arm].digests for arm in comparison.arms}
        with_snapshots = [arm for arm in (comparison.reference, *comparison.arms) if digests[arm]]
        for arm in with_snapshots:
            for part in _parts_on_other_anchors(digests[arm], digests[with_snapshots[0]]):
                others.setdefault(part, set()).add(arm)
    problems = [problem for of_arm in found.values() for problem in of_arm.problems]
    problems += [
        Problem(
            ProblemKind.OTHER_ANCHORS, tuple(arm for arm in comparison.arms if arm in of_part), part
        )
        for part, of_part in others.items()
    ]
    views = [view for of_arm in found.values() for view in of_arm.views]
    return LossViews(tuple(views), tuple(problems))


def _views_of_arm(arm: str, moment: str, folders: Iterable[RunFolder]) -> _ViewsOfArm:
    problems: list[Problem] = []
    by_part: dict[str, dict[int, Snapshot]] = {}
    for folder in folders:
        for snapshot in _read(folder, moment, problems):
            by_part.setdefault(snapshot.part, {})[folder.run.seed] = snapshot
    return _ViewsOfArm(
        views=[_view(arm, moment, by_part[part]) for part in sorted(by_part)],
        digests={
            part: {seed: snapshot.anchors_digest for seed, snapshot in by_seed.items()}
            for part, by_seed in by_part.items()
        },
        problems=problems,
    )


def _parts_on_other_anchors(
    arm: Mapping[str, Mapping[int, str]], reference: Mapping[str, Mapping[int, str]]
) -> list[str]:
    """Return the parts whose anchors differ for a seed that both have."""
    return [
        part
        for part in arm
        if any(
            digest != reference[part][seed]
            for seed, digest in arm[part].items()
            if seed in reference.get(part, {})
        )
    ]


def _read(folder: RunFolder, moment: str, problems: list[Problem]) -> Iterable[Snapshot]:
    for file in folder.snapshots(moment):
        try:
            yield read_snapshot(file)
        except ValueError as error:
            name = folder.run.name
            problems.append(Problem(ProblemKind.SNAPSHOT_BROKEN, (name,), str(error)))


def _view(arm: str, moment: str, by_seed: dict[int, Snapshot]) -> LossView:
    snapshots = list(by_seed.values())
    first = snapshots[0]
    edges, pos, neg = _gradients(snapshots)
    return LossView(
        arm=arm,
        part=first.part,
        moment=moment,
        iteration=first.iteration,
        loss=first.loss,
        options=first.options,
        miner=first.miner,
        num_images=first.num_images,
        num_anchors=first.num_anchors,
        audit={name: _spread(by_seed, name) for name in AUDIT},
        cdf_pos=_mean_cdf([s.sample_pos for s in snapshots]),
        cdf_neg=_mean_cdf([s.sample_neg for s in snapshots]),
        gradient_edges=edges,
        gradient_pos=pos,
        gradient_neg=neg,
        first_norms=_first_norms(snapshots),
    )


def _spread(by_seed: dict[int, Snapshot], name: str) -> Spread:
    """Return the spread; a value that is not finite, after divergence, has no mean."""
    values = {seed: float(getattr(snapshot, name)) for seed, snapshot in by_seed.items()}
    return Spread.of({seed: v if np.isfinite(v) else "not finite" for seed, v in values.items()})


def _mean_cdf(samples: list[np.ndarray]) -> tuple[float, ...]:
    rows = []
    for losses in samples:
        if len(losses) and np.isfinite(losses).all() and losses.sum() > 0:
            anchors, held = cumulative_loss(losses)
            rows.append(np.interp(SHARES, anchors, held))
    return tuple(np.mean(rows, axis=0).tolist()) if rows else ()


def _gradients(
    snapshots: list[Snapshot],
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    edges = snapshots[0].gradient_edges
    if any(not np.array_equal(edges, s.gradient_edges) for s in snapshots):
        return (), (), ()
    pos = np.sum([s.gradient_counts_pos for s in snapshots], axis=0, dtype=np.float64)
    neg = np.sum([s.gradient_counts_neg for s in snapshots], axis=0, dtype=np.float64)
    total = pos.sum() + neg.sum()
    if total == 0:
        return (), (), ()
    return tuple(edges.tolist()), tuple((pos / total).tolist()), tuple((neg / total).tolist())


def _first_norms(snapshots: list[Snapshot]) -> tuple[float, ...]:
    rows = [s.parameter_gradient_norms for s in snapshots]
    length = min((len(row) for row in rows), default=0)
    mean = np.mean([row[:length] for row in rows], axis=0) if length else np.empty(0)
    return tuple(mean.tolist()) if np.isfinite(mean).all() else ()
