#!/usr/bin/env python3
"""
Write the tables and the figure of `docs/why.md` from the runs in `docs/why.json`.

    focal-compare run configs/comparisons/why_400.yaml --jobs 2
    focal-compare run configs/comparisons/why_800.yaml --jobs 2
    focal-compare run configs/comparisons/why_1600.yaml --jobs 2
    focal-compare run configs/comparisons/why_lookalikes.yaml --jobs 2
    python tools/write_why.py --results runs/why_400 runs/why_800 runs/why_1600 runs/why_lookalikes

Each folder adds its finished runs to the file, so other machines and other days can add seeds. A
run replaces the one with the same data, arm, rate, length and seed. Without --results, the page is
written from the file alone. The interpretation of the numbers is written by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from pages import fill
from records import read_records, updated, write_records

from focal_plugin.compare.analysis.loss_balance import geometric
from focal_plugin.compare.analysis.statistics import (
    PairedDifference,
    describe,
    paired_difference,
)
from focal_plugin.compare.plan.comparison import Comparison
from focal_plugin.compare.report.markdown import markdown_table
from focal_plugin.compare.runs.run_folder import RunFolder, read_run_folders
from focal_plugin.files import write_text
from focal_plugin.pages.table import Table
from focal_plugin.pages.text import NOTHING, interval_text, signed
from focal_plugin.run_folder import MOMENTS

DOCS = Path(__file__).resolve().parents[1] / "docs"
RUNS, PAGE = DOCS / "why.json", DOCS / "why.md"
FIGURE = DOCS / "images" / "why.png"
REFERENCE = "FL"
COMPARED_RATE = 0.05
DATA = {"focal_shapes_train": "6 to 12 look-alikes", "few_lookalikes_train": "0 to 2 look-alikes"}
"""Training set -> its name on the page; the other tables are those of the first one."""
FEWEST_FOR_INTERVAL = 3
"""Seeds below which the figure has no interval: that of two is 13 standard errors wide."""
PART = "retinanet"


@dataclass(frozen=True)
class Run:
    """
    A finished run.

    Attributes:
        data: name of the training set, one of :data:`DATA` unless the run is a trial.
        trial: True if it trained on 80% of the training set, and was evaluated on the rest.
        learning_rate: `SOLVER.BASE_LR`.
        ap: AP in percent.
        balance: start or end of training -> gradient norm of the classification loss over that of
            the box loss; {} if it was not recorded.
    """

    data: str
    arm: str
    trial: bool
    learning_rate: float
    iterations: int
    seed: int
    ap: float
    balance: dict[str, float]

    @property
    def key(self) -> tuple[str, bool, str, float, int, int]:
        """Attributes that no other run shares."""
        return self.data, self.trial, self.arm, self.learning_rate, self.iterations, self.seed


class Runs(tuple[Run, ...]):
    """Finished runs."""

    @classmethod
    def read(cls, file: Path) -> Runs:
        """Read the file; no file is no run."""
        return cls(read_records(Run, file))

    def updated(self, others: Iterable[Run]) -> Runs:
        """Return these and other runs, sorted; the others replace those with the same key."""
        return Runs(updated(self, others))

    def write(self, file: Path) -> None:
        """Write one run a line."""
        write_records(file, self)

    def where(self, **values: object) -> Runs:
        """Return the runs with these attributes."""
        return Runs(
            run for run in self if all(getattr(run, name) == v for name, v in values.items())
        )

    def values(self, name: str) -> list[float]:
        """Return the different values of an attribute, ascending."""
        return sorted({getattr(run, name) for run in self})

    @property
    def arms(self) -> list[str]:
        """Names of the arms, the reference first."""
        names = dict.fromkeys(run.arm for run in self)
        return sorted(names, key=lambda name: name != REFERENCE)

    @property
    def by_seed(self) -> dict[int, float]:
        """AP by seed, of the runs of one arm."""
        return {run.seed: run.ap for run in self}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="RUNS_DIR", help="add these runs"
    )
    args = parser.parse_args(argv)
    found = [run for folder in args.results for run in finished_runs(folder)]
    runs = Runs.read(RUNS).updated(found)
    runs.write(RUNS)
    page = PAGE.read_text(encoding="utf-8")
    for part, make in PARTS.items():
        page = fill(page, part, "write_why", markdown_table(make(runs)))
    draw(runs).savefig(FIGURE, dpi=150)
    write_text(PAGE, page)
    print(f"{len(found)} runs read, {len(runs)} runs in {RUNS.name}")


def finished_runs(folder: Path) -> Iterable[Run]:
    """Yield the finished runs of a comparison; a run without detections has an AP of 0."""
    comparison = Comparison.read(folder)
    for run in read_run_folders(comparison, folder):
        if run.result is not None and run.config is not None and run.environment is not None:
            yield Run(
                data=run.environment.train[0].name,
                arm=run.run.arm,
                trial=run.run.role == "tuning",
                learning_rate=round(run.config.SOLVER.BASE_LR, 9),
                iterations=run.run.iterations,
                seed=run.run.seed,
                ap=round(run.result.ap["AP"] or 0.0, 4),
                balance=balance_of(run),
            )


def balance_of(run: RunFolder) -> dict[str, float]:
    """Return the balance of the losses by moment."""
    ratios = {
        moment: balance.parts[PART].ratio
        for moment, balance in run.balances.items()
        if PART in balance.parts
    }
    return {moment: round(ratio, 5) for moment, ratio in ratios.items() if ratio is not None}


def compared_runs(runs: Runs, data: str | None = None) -> Runs:
    """Return the runs of a training set that are no trials, at one learning rate."""
    data = next(iter(DATA)) if data is None else data
    return runs.where(trial=False, learning_rate=COMPARED_RATE, data=data)


def length_table(runs: Runs) -> Table:
    """Return AP and difference to the reference by training length."""
    compared = compared_runs(runs)
    lengths = compared.values("iterations")
    header = ["arm"]
    for length in lengths:
        header += [f"AP, {length:.0f} iterations", f"difference to {REFERENCE}"]
    rows = []
    for arm in compared.arms:
        row = [arm]
        for length in lengths:
            at_length = compared.where(iterations=length)
            row += [spread(at_length.where(arm=arm)), text_of(difference(at_length, arm))]
        rows.append(tuple(row))
    return Table("lengths", tuple(header), tuple(rows))


def change_table(runs: Runs) -> Table:
    """Return how the difference to the reference changes between lengths, and over all of them."""
    compared = compared_runs(runs)
    lengths = compared.values("iterations")
    steps = list(pairwise(lengths))
    if len(steps) > 1:
        steps.append((lengths[0], lengths[-1]))
    rows = []
    for arm in compared.arms[1:]:
        row = [arm]
        for step in steps:
            short, long = (differences(compared.where(iterations=x), arm) for x in step)
            both = short.keys() & long.keys()
            row.append(text_of(paired_difference(long, short) if both else None))
        rows.append(tuple(row))
    header = ("arm", *(f"from {a:.0f} to {b:.0f} iterations" for a, b in steps))
    return Table("change", header, tuple(rows))


def rate_table(runs: Runs) -> Table:
    """Return AP of the trials by learning rate."""
    trials = runs.where(trial=True)
    rates = trials.values("learning_rate")
    rows = [
        (arm, *(spread(trials.where(arm=arm, learning_rate=rate)) for rate in rates))
        for arm in trials.arms
    ]
    return Table("rates", ("arm", *(f"rate {rate:g}" for rate in rates)), tuple(rows))


def balance_table(runs: Runs) -> Table:
    """Return the balance of the losses at the start and at each end of training."""
    compared = compared_runs(runs)
    lengths = compared.values("iterations")
    start, final = MOMENTS
    rows = []
    for arm in compared.arms:
        of_arm = compared.where(arm=arm)
        ends = [ratio_cell(of_arm.where(iterations=length), final) for length in lengths]
        rows.append((arm, ratio_cell(of_arm, start), *ends))
    header = ("arm", "start", *(f"after {x:.0f} iterations" for x in lengths))
    return Table("balance", header, tuple(rows))


def data_table(runs: Runs) -> Table:
    """Return AP and difference to the reference by training set, at the length of the other one."""
    others = [compared_runs(runs, data) for data in list(DATA)[1:]]
    lengths = {run.iterations for other in others for run in other}
    arms = list(dict.fromkeys(arm for other in others for arm in other.arms))
    header, columns = ["arm"], []
    for data, name in DATA.items():
        header += [f"AP, {name}", f"difference to {REFERENCE}"]
        columns.append(Runs(run for run in compared_runs(runs, data) if run.iterations in lengths))
    rows = []
    for arm in arms:
        row = [arm]
        for of_data in columns:
            row += [spread(of_data.where(arm=arm)), text_of(difference(of_data, arm))]
        rows.append(tuple(row))
    return Table("data", tuple(header), tuple(rows))


PARTS: dict[str, Callable[[Runs], Table]] = {
    "lengths": length_table,
    "change": change_table,
    "rates": rate_table,
    "balance": balance_table,
    "data": data_table,
}
"""Part of the page -> function that creates its table."""


def spread(runs: Runs) -> str:
    """Return mean and standard deviation over the seeds, with their number."""
    found = describe(run.ap for run in runs)
    if found.mean is None:
        return NOTHING
    std = "" if found.std is None else f" ± {found.std:.1f}"
    return f"{found.mean:.1f}{std} ({found.n})"


def difference(runs: Runs, arm: str) -> PairedDifference | None:
    """Return the difference to the reference, paired by seed; None without common seeds."""
    of_arm, reference = (runs.where(arm=name).by_seed for name in (arm, REFERENCE))
    if arm == REFERENCE or not of_arm.keys() & reference.keys():
        return None
    return paired_difference(of_arm, reference)


def differences(runs: Runs, arm: str) -> dict[int, float]:
    """Return the difference to the reference by seed."""
    found = difference(runs, arm)
    return {} if found is None else found.by_seed


def text_of(found: PairedDifference | None) -> str:
    """Return a difference with its interval."""
    if found is None:
        return NOTHING
    return signed(found.mean) + (f" ({interval_text(found.interval)})" if found.interval else "")


def ratio_cell(runs: Runs, moment: str) -> str:
    """Return the geometric mean of the balances."""
    mean, _ = geometric(run.balance[moment] for run in runs if moment in run.balance)
    return NOTHING if mean is None else f"{mean:.2g}"


def draw(runs: Runs) -> plt.Figure:
    """Draw AP, and the difference to the reference with its interval, by training length."""
    compared = compared_runs(runs)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    largest = 0.0
    for place, arm in enumerate(compared.arms):
        color = f"C{place}"
        means, points = [], []
        for length in compared.values("iterations"):
            at_length = compared.where(iterations=length)
            shifted = length * (1 + 0.03 * (place - len(compared.arms) / 2))
            values = [run.ap for run in at_length.where(arm=arm)]
            left.plot([shifted] * len(values), values, ".", color=color, alpha=0.5)
            if values:
                means.append((length, sum(values) / len(values)))
            found = difference(at_length, arm)
            if found is not None:
                interval = found.interval if found.n >= FEWEST_FOR_INTERVAL else None
                points.append((shifted, found.mean, *(interval or (found.mean, found.mean))))
                largest = max(largest, abs(found.mean))
        left.plot(*zip(*means, strict=True), "-", color=color, label=arm)
        if points:
            x, mean, low, high = zip(*points, strict=True)
            below = [m - edge for m, edge in zip(mean, low, strict=True)]
            above = [edge - m for m, edge in zip(mean, high, strict=True)]
            right.errorbar(x, mean, yerr=(below, above), fmt="o-", color=color, capsize=3)
    right.axhline(0, color="C0")
    right.set_ylim(-1.6 * largest - 1, 1.6 * largest + 1)  # a wide interval leaves the axes
    left.set(ylabel="AP", title="AP of each seed, and mean")
    right.set(ylabel=f"AP minus that of {REFERENCE}", title="Difference, 95% interval")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="iterations")
        axes.set_xticks(compared.values("iterations"), labels=None)
        axes.set_xticklabels([f"{x:.0f}" for x in compared.values("iterations")])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
