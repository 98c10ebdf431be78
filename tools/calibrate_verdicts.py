#!/usr/bin/env python3
r"""
Measure how often `focal-compare` reports a difference that does not exist, and one that does.

An arm compared with itself (an "A/A comparison") has no difference: every "higher" or "lower" is a
false alarm, and 5 in 100 are allowed. This requires one arm with many seeds: 20, or better 40, so
that --arms 3 can draw four times 10 runs.

    python tools/calibrate_verdicts.py --runs RUNS --output FOLDER

With the annotations of the runs' test set, the bootstrap over images is also calibrated:

    python tools/calibrate_verdicts.py --runs RUNS --output FOLDER --ground-truth ANNOTATIONS.json

A/A comparisons consist of
  seeds             2n different runs, paired at random, n against n
  seeds, 3 arms     4n different runs: three "arms", one reference, Holm; any alarm counts
  resampled images  one run on two independent draws of its images, by the paired bootstrap
  swapped runs      two runs; each image's detections change sides with probability 1/2
To measure power, --effects AP is added to one side of pairs of different runs.

The output is calibration.json, calibration.md, power.png and power.svg. --page writes the table and
the figure into docs/statistics.md.

--again judges the values of an earlier calibration.json, when the procedure has changed and the
runs are gone. Its rates over images stay.

    python tools/calibrate_verdicts.py --again docs/images/calibration/calibration.json \
        --effects 1 2 --output docs/images/calibration --page docs/statistics.md

Without runs, --designs simulates the designs of `focal-compare plan`: a fixed number of seeds and
planned looks, in five models of the noise between seeds and in that of the runs in
docs/catalogue.json.

    python tools/calibrate_verdicts.py --designs --output FOLDER --page docs/statistics.md

--extensions simulates seeds that are added after a look at the results, with looks that no plan
has. It takes half a minute.

    python tools/calibrate_verdicts.py --extensions --output FOLDER --page docs/statistics.md
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from pages import fill
from scipy import stats
from simulated_designs import NOISES, design_tables, real_noise, simulate_designs
from simulated_extensions import extension_table
from tabulate import tabulate

from focal_plugin.compare.analysis.detections.average_precision import (
    METRICS,
    AveragePrecision,
    Evaluation,
    evaluate,
)
from focal_plugin.compare.analysis.detections.bootstrap import bootstrap_difference
from focal_plugin.compare.analysis.power import paired_t_power, recommend_seeds
from focal_plugin.compare.analysis.statistics import ALPHA, describe
from focal_plugin.compare.analysis.verdicts import verdicts
from focal_plugin.compare.plan.comparison import Comparison
from focal_plugin.compare.report.sentences import recommendation_sentence
from focal_plugin.compare.runs.result import AVERAGES, Result
from focal_plugin.files import write_json, write_text
from focal_plugin.run_folder import DETECTIONS_FILE

TOOL = "calibrate_verdicts"
CATALOGUE = Path(__file__).resolve().parents[1] / "docs" / "catalogue.json"
STDS, COMPARISONS = (0.25, 0.5, 1.0, 2.0, 4.0), (1, 3, 7)  # for the table of seeds


@dataclass(frozen=True)
class Pool:
    """
    Runs of one arm.

    Attributes:
        values: AP of the finished runs, percent.
        failed: number of runs that did not finish.
        folders: folders of the finished runs.
    """

    arm: str
    metric: str
    values: tuple[float, ...]
    failed: int
    folders: tuple[Path, ...]

    @property
    def std_of_differences(self) -> float:
        """Return the standard deviation between two different runs: their variances add up."""
        return float(np.sqrt(2) * np.std(self.values, ddof=1))


@dataclass(frozen=True)
class Rate:
    """Rate of ``hits`` in ``trials`` of ``what``, with an exact 95% binomial interval."""

    what: str
    n: int
    trials: int
    hits: int

    @property
    def rate(self) -> float:
        return self.hits / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        low, high = stats.binomtest(self.hits, self.trials).proportion_ci(0.95)
        return float(low), float(high)


@dataclass(frozen=True)
class Power:
    """Measured and predicted rate of "higher" for a planted ``effect``."""

    effect: float
    found: Rate
    expected: float


# --- results of the runs


def read_pool(folder: Path, arm: str | None, metric: str) -> Pool:
    """
    Read the runs of one arm.

    Raises:
        FileNotFoundError: ``folder`` contains no comparison.
        ValueError: several arms and none chosen, an unknown one, or fewer than two finished runs.
    """
    comparison = Comparison.read(folder)
    if arm is None and len(comparison.arms) > 1:
        raise ValueError(f"choose one with --arm: {', '.join(comparison.arms)}")
    arm = arm or comparison.arms[0]
    runs = [run for run in comparison.of_role("equal") if run.arm == arm]
    if not runs:
        raise ValueError(f"no arm is named {arm!r}; there are {', '.join(comparison.arms)}")
    results = {folder / run.id: Result.read(folder / run.id) for run in runs}
    values = {file: result.ap[metric] for file, result in results.items() if result is not None}
    finished = {file: value for file, value in values.items() if value is not None}
    if len(finished) < 2:
        raise ValueError(f"{len(finished)} runs of {arm!r} in {folder} have finished, 2 required")
    return Pool(arm, metric, tuple(finished.values()), len(runs) - len(finished), tuple(finished))


def read_again(file: Path) -> tuple[Pool, list[Rate]]:
    """Return the pool of an earlier calibration, and its rates over images."""
    content = json.loads(file.read_text(encoding="utf-8"))
    pool = content["pool"]
    rates = [
        Rate(r["what"], r["n"], r["trials"], r["hits"])
        for r in content["alarms"]
        if not r["what"].startswith("seeds")
    ]
    values = tuple(pool["values"])
    return Pool(pool["arm"], pool["metric"], values, pool["failed"], ()), rates


# --- seeds


def count_seed_alarms(
    values: Sequence[float], n: int, arms: int, trials: int, generator: np.random.Generator
) -> tuple[Rate, Rate] | None:
    """
    Count false alarms of ``arms`` "arms" and a reference, which are all the same arm.

    Each has n runs, and no run occurs twice.

    Returns:
        rates at which any arm is called different, by the rule and by the joint sign-flip test;
        None if there are too few runs.
    """
    if len(values) < (arms + 1) * n:
        return None
    alarms = sign_flips = 0
    for _ in range(trials):
        drawn = generator.permutation(values)[: (arms + 1) * n].reshape(arms + 1, n).tolist()
        by_arm = {str(i): dict(enumerate(row)) for i, row in enumerate(drawn)}
        found = verdicts(by_arm, reference="0")
        alarms += any(verdict.decision in ("higher", "lower") for verdict in found)
        sign_flips += any(v.sign_flip_p is not None and v.sign_flip_p <= ALPHA for v in found)
    name = "seeds" if arms == 1 else f"seeds, {arms} arms"
    return Rate(name, n, trials, alarms), Rate(f"{name}, sign-flip test", n, trials, sign_flips)


def measure_power(
    pool: Pool, n: int, effect: float, trials: int, generator: np.random.Generator
) -> Power:
    """
    Measure the power for ``effect``, added to one side of n pairs of two different runs.

    A run may occur in several pairs, so the number of runs does not limit n.
    """
    values, hits = np.asarray(pool.values), 0
    for _ in range(trials):
        first = generator.integers(len(values), size=n)
        second = (first + generator.integers(1, len(values), size=n)) % len(values)
        arm = dict(enumerate((values[first] + effect).tolist()))
        reference = dict(enumerate(values[second].tolist()))
        hits += verdicts({"arm": arm, "reference": reference}, "reference")[0].decision == "higher"
    expected = float(paired_t_power(n, effect, pool.std_of_differences))
    return Power(effect, Rate("power", n, trials, hits), expected)


# --- images


class ResampledImages:
    """
    Evaluation on images drawn with replacement from another evaluation, as many as it has.

    It has the interface of :class:`Evaluation` that the paired bootstrap uses. A slot replaces an
    image.
    """

    def __init__(self, evaluation: Evaluation, drawn: np.ndarray) -> None:
        self._evaluation = evaluation
        self._slots = np.eye(len(evaluation.image_ids))[drawn]  # (slots, images)
        self.image_ids = tuple(range(len(drawn)))

    def same_ground_truth_as(self, other: ResampledImages) -> bool:
        """Return True: slot i is compared with slot i, whatever images they contain."""
        return self.image_ids == other.image_ids

    def average_precision(
        self, weights: np.ndarray | None = None, metrics: tuple[str, ...] = METRICS
    ) -> AveragePrecision:
        """Return the AP as :meth:`Evaluation.average_precision` does, with weights of slots."""
        weights = np.ones(len(self._slots)) if weights is None else np.asarray(weights)
        return self._evaluation.average_precision(weights @ self._slots, metrics)


def resampled_pairs(
    evaluations: Sequence[Evaluation], trials: int, generator: np.random.Generator
) -> Iterator[tuple[ResampledImages, ResampledImages]]:
    """Yield pairs of a run and the same run on other images."""
    for _ in range(trials):
        evaluation = evaluations[int(generator.integers(len(evaluations)))]
        images = len(evaluation.image_ids)
        first, second = generator.integers(images, size=(2, images))
        yield ResampledImages(evaluation, first), ResampledImages(evaluation, second)


def swapped_pairs(
    ground_truth: Path,
    detections: Sequence[list[dict[str, Any]]],
    trials: int,
    generator: np.random.Generator,
) -> Iterator[tuple[Evaluation, Evaluation]]:
    """Yield pairs of two equally good runs: each image's detections go to a random side."""
    images = sorted(
        image["id"] for image in json.loads(ground_truth.read_text(encoding="utf-8"))["images"]
    )
    for _ in range(trials):
        one, other = (detections[i] for i in generator.choice(len(detections), 2, replace=False))
        swapped = dict(zip(images, generator.random(len(images)) < 0.5, strict=True))
        first = [d for d in one if not swapped[d["image_id"]]]
        first += [d for d in other if swapped[d["image_id"]]]
        second = [d for d in other if not swapped[d["image_id"]]]
        second += [d for d in one if swapped[d["image_id"]]]
        yield evaluate(ground_truth, first), evaluate(ground_truth, second)


def count_image_alarms(
    what: str, pairs: Iterator[tuple[Any, Any]], replicates: int, metric: str
) -> Rate:
    """
    Return the rate at which the 95% interval of the bootstrap excludes 0.

    Raises:
        ValueError: the metric is not defined on these images, so there is no interval.
    """
    trials = hits = images = 0
    for a, b in pairs:
        found = bootstrap_difference(a, b, replicates=replicates, seed=trials, metric=metric)
        low, high = found.interval
        if np.isnan(low):
            raise ValueError(f"{metric} is not defined on these images")
        hits += not low <= 0 <= high
        trials, images = trials + 1, len(a.image_ids)
    return Rate(what, images, trials, hits)


# --- output


def to_table(rates: Sequence[Rate]) -> str:
    """Return a Markdown table of the alarm rates."""
    rows = [
        [
            rate.what,
            rate.n,
            rate.trials,
            f"{100 * rate.rate:.1f}%",
            "{:.1f}% to {:.1f}%".format(*(100 * limit for limit in rate.interval)),
        ]
        for rate in rates
    ]
    header = ["A/A comparison of", "seeds or images", "comparisons", "alarms", "95% interval"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def to_seeds_table() -> str:
    """Return a Markdown table of the number of seeds that detect 1 AP in 8 of 10 comparisons."""
    rows = [
        [f"{std:g}", *(recommend_seeds(std, comparisons=k).seeds for k in COMPARISONS)]
        for std in STDS
    ]
    header = ["std of the differences, AP", *(f"{k} arm{'s' * (k > 1)}" for k in COMPARISONS)]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True, stralign="right")


def draw(rates: Sequence[Rate], powers: Sequence[Power], std: float | None) -> plt.Figure:
    """
    Draw alarm rates on the left (most trials of each comparison) and power on the right.

    Args:
        std: standard deviation of the differences between runs; None if ``powers`` is empty.
    """
    finest = {(r.what, r.n): r for r in sorted(rates, key=lambda rate: rate.trials)}
    shown = [rate for rate in rates if rate is finest[rate.what, rate.n]]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, max(3.6, 0.3 * len(shown) + 1)), layout="constrained"
    )
    _draw_alarms(left, shown)
    if powers:
        assert std is not None
        _draw_power(right, powers, std)
    else:
        right.set_axis_off()
    return figure


def _draw_alarms(axes: plt.Axes, rates: Sequence[Rate]) -> None:
    for y, rate in enumerate(rates):
        axes.plot([100 * limit for limit in rate.interval], [y, y], color="C0")
        axes.plot(100 * rate.rate, y, "o", color="C0")
    axes.axvline(100 * ALPHA, color="gray", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rates)), [f"{r.what}, n = {r.n}" for r in rates], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("false alarms, % (5 are allowed)")


def _draw_power(axes: plt.Axes, powers: Sequence[Power], std: float) -> None:
    n = np.array(sorted({point.found.n for point in powers}))
    every = np.arange(n[0], n[-1] + 1)
    for i, effect in enumerate(sorted({point.effect for point in powers})):
        found = [point.found for point in powers if point.effect == effect]
        share = np.array([rate.rate for rate in found])
        errors = np.abs(np.array([rate.interval for rate in found]).T - share)
        axes.plot(every, paired_t_power(every, effect, std), color=f"C{i}", label=f"{effect:g} AP")
        axes.errorbar([rate.n for rate in found], share, errors, fmt="o", color=f"C{i}", ms=4)
    axes.axhline(0.8, color="gray", linestyle="--", linewidth=1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("seeds")
    axes.set_ylabel('share of verdicts "higher"')
    axes.set_title("planted difference; dots: simulated, lines: noncentral t", fontsize=9)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def describe_pool(pool: Pool) -> str:
    """Return one paragraph about the runs of the calibration."""
    found = describe(pool.values)
    std = pool.std_of_differences
    return (
        f"{found.n} runs of {pool.arm}: {pool.metric} {found.mean:.1f}, standard deviation "
        f"{found.std:.2f} between seeds ({pool.failed} more did not finish). Two different runs "
        f"differ with a standard deviation of {std:.2f}. "
        f"{recommendation_sentence(recommend_seeds(std), std)}"
    )


def fill_page(page: Path, text: str, figure: Path | None) -> None:
    """Write the tables into ``page``, and the figure into the folder that the page links to."""
    content = page.read_text(encoding="utf-8")
    if figure:
        link = Path(os.path.relpath(figure, page.resolve().parent)).as_posix()
        text += f"\n\n![false alarms, and power against the number of seeds]({link})"
    content = fill(content, "calibration", TOOL, text)
    write_text(page, fill(content, "seeds", TOOL, to_seeds_table()))


# --- command line


def parse_args(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--runs", type=Path, help="folder of a comparison with many seeds of one arm")
    add("--arm", help="arm to use, if there are several")
    add("--metric", default="AP", choices=AVERAGES, help="default: %(default)s")
    add("--seeds", type=int, nargs="+", default=[6, 8, 10], metavar="N", help="n of the A/A tests")
    add(
        "--comparisons",
        type=int,
        nargs="+",
        default=[200, 2000],
        metavar="N",
        help="number of each; several values show the precision (default: 200 2000)",
    )
    add("--arms", type=int, default=3, help="arms of the A/A comparisons with Holm (default: 3)")
    add("--effects", type=float, nargs="+", default=[1.0], metavar="AP", help="planted effects")
    add(
        "--power-seeds",
        type=int,
        nargs="+",
        default=[6, 8, 10, 12, 16, 20, 30],
        metavar="N",
        help="numbers of seeds for the power",
    )
    add("--ground-truth", type=Path, help="COCO JSON; also calibrates the bootstrap over images")
    add(
        "--detections",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help=f"files of runs of one arm, without --runs (which has {DETECTIONS_FILE} in each run)",
    )
    add("--image-comparisons", type=int, default=200, metavar="N", help="default: %(default)s")
    add("--replicates", type=int, default=1000, help="of each bootstrap (default: %(default)s)")
    add("--again", type=Path, metavar="JSON", help="judge the values of a calibration.json again")
    add("--designs", action="store_true", help="simulate the designs instead; needs no runs")
    add("--extensions", action="store_true", help="simulate unplanned looks; needs no runs")
    add("--trials", type=int, default=4000, help="of each design (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the random draws (default: %(default)s)")
    add("--output", type=Path, required=True, metavar="FOLDER")
    add("--page", type=Path, help="page to update, with the marks of docs/statistics.md")
    options = parser.parse_args(args)
    if options.designs or options.extensions or options.again:
        return options
    if not options.runs and not (options.detections and options.ground_truth):
        parser.error("--runs, or --detections and --ground-truth, are required")
    if options.detections and not options.ground_truth:
        parser.error("--detections requires --ground-truth")
    return options


def calibrate_seeds(
    pool: Pool, options: argparse.Namespace, generator: np.random.Generator
) -> tuple[list[Rate], list[Power]]:
    """Return alarm rates and power of the verdict."""
    rates: list[Rate] = []
    for arms in (1, options.arms):
        for n in options.seeds:
            for trials in options.comparisons:
                found = count_seed_alarms(pool.values, n, arms, trials, generator)
                if found is None:
                    needed = (arms + 1) * n
                    print(f"skipped: {arms} x {n} seeds require {needed} runs", file=sys.stderr)
                elif arms == 1:
                    rates += found
                else:
                    rates.append(found[0])
    trials = max(options.comparisons)
    powers = [
        measure_power(pool, n, effect, trials, generator)
        for effect in options.effects
        for n in options.power_seeds
    ]
    return rates, powers


def calibrate_images(
    files: Sequence[Path], options: argparse.Namespace, generator: np.random.Generator
) -> list[Rate]:
    """Return alarm rates of the bootstrap; swapped runs require two runs."""
    truth, trials = options.ground_truth, options.image_comparisons
    detections = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    evaluations = [evaluate(truth, content) for content in detections]
    pairs: dict[str, Iterator[tuple[Any, Any]]]
    pairs = {"resampled images": resampled_pairs(evaluations, trials, generator)}
    if len(detections) > 1:
        pairs["swapped runs"] = swapped_pairs(truth, detections, trials, generator)
    return [
        count_image_alarms(what, made, options.replicates, options.metric)
        for what, made in pairs.items()
    ]


def calibrate_designs(options: argparse.Namespace) -> int:
    """Write designs.json, designs.md and the tables of the page."""
    real, count = real_noise(CATALOGUE)
    noises = {**NOISES, "real runs": real}
    rows = simulate_designs(noises, options.trials, options.seed)
    text = design_tables(rows, options.trials, count)
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "designs.json", [asdict(row) for row in rows])
    return _write_simulation("designs", text, options)


def calibrate_extensions(options: argparse.Namespace) -> int:
    """Write extensions.md and the table of the page."""
    text = extension_table(options.trials, options.seed)
    return _write_simulation("extensions", text, options)


def _write_simulation(name: str, text: str, options: argparse.Namespace) -> int:
    options.output.mkdir(parents=True, exist_ok=True)
    write_text(options.output / f"{name}.md", text + "\n")
    if options.page:
        content = options.page.read_text(encoding="utf-8")
        write_text(options.page, fill(content, name, TOOL, text))
    print(text)
    return 0


def to_json(pool: Pool | None, rates: list[Rate], powers: list[Power]) -> dict[str, Any]:
    """Return all measurements."""
    return {
        "pool": pool
        and {
            "arm": pool.arm,
            "metric": pool.metric,
            "values": pool.values,
            "failed": pool.failed,
            "std_of_differences": pool.std_of_differences,
        },
        "alarms": [{**asdict(r), "rate": r.rate, "interval": r.interval} for r in rates],
        "power": [
            {
                "effect": point.effect,
                "n": point.found.n,
                "simulated": point.found.rate,
                "interval": point.found.interval,
                "expected": point.expected,
            }
            for point in powers
        ],
    }


def main(args: Sequence[str] | None = None) -> int:
    options = parse_args(args)
    if options.designs:
        return calibrate_designs(options)
    if options.extensions:
        return calibrate_extensions(options)
    generator = np.random.default_rng(options.seed)
    pool, files = None, options.detections
    rates: list[Rate] = []
    powers: list[Power] = []
    try:
        if options.again:
            pool, of_images = read_again(options.again)
            rates, powers = calibrate_seeds(pool, options, generator)
            rates += of_images
        if options.runs:
            pool = read_pool(options.runs, options.arm, options.metric)
            rates, powers = calibrate_seeds(pool, options, generator)
            files = files or [folder / DETECTIONS_FILE for folder in pool.folders]
        if options.ground_truth:
            rates += calibrate_images(files, options, generator)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    text = "\n\n".join([*([describe_pool(pool)] if pool else []), to_table(rates)])
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "calibration.json", to_json(pool, rates, powers))
    write_text(options.output / "calibration.md", text + "\n")
    figure = draw(rates, powers, None if pool is None else pool.std_of_differences)
    plt.rcParams["svg.hashsalt"] = "calibration"  # equal numbers give an equal file
    figure.savefig(options.output / "power.svg", metadata={"Date": None})
    figure.savefig(options.output / "power.png", dpi=110)
    plt.close(figure)
    if options.page:
        fill_page(options.page, text, options.output / "power.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
