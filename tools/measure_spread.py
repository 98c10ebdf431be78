#!/usr/bin/env python3
"""
Measure what lowers the spread between seeds: averages of the weights, the schedule, the test set.

    focal-compare run configs/comparisons/spread.yaml --jobs 2
    python tools/measure_spread.py --results runs/spread --jobs 2

The runs keep a checkpoint every few iterations. The tool averages the weights of the last ones in
several ways, and evaluates each average on the test set of the runs. It also evaluates the last
weights on a test set of four times as many images. The AP of the last weights on the own test set
is that of the run. Every result is one line of `docs/spread.json`, which grows with more runs, and
the tables of `docs/spread.md` come from it.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from pages import fill
from records import read_records, updated, write_records
from scipy import stats

from focal_plugin.compare.analysis.statistics import paired_difference
from focal_plugin.compare.plan.comparison import Comparison
from focal_plugin.compare.report.markdown import markdown_table
from focal_plugin.compare.runs.run_folder import read_run_folders
from focal_plugin.config import get_cfg
from focal_plugin.data.shapes.builtin import SPLITS, register_shapes
from focal_plugin.data.shapes.painting import ShapesSpec
from focal_plugin.engine.checkpoints.file import read_checkpoint
from focal_plugin.engine.trainer import Trainer
from focal_plugin.files import write_text
from focal_plugin.pages.table import Table
from focal_plugin.pages.text import NOTHING, interval_text, signed
from focal_plugin.run_folder import CONFIG_FILE

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULTS, PAGE = DOCS / "spread.json", DOCS / "spread.md"
LAST = "last"
TRAINING_SET = "focal_shapes_train"
LARGE_SET = "focal_shapes_large"
LARGE_SPEC = ShapesSpec(images=4 * SPLITS["focal_shapes_val"].images, seed=2)
UNIFORM = {"mean of the last 5%": 0.05, "mean of the last 10%": 0.1, "mean of the last 25%": 0.25}
"""Name -> share of the training whose checkpoints weigh alike."""
EMA = {"EMA, 2% of the training": 0.02, "EMA, 5% of the training": 0.05}
"""Name -> iterations in which the weight of a checkpoint falls to 1/e, as a share of all."""
FEWEST = 4
"""Seeds below which a standard deviation says nothing."""


@dataclass(frozen=True)
class Measured:
    """
    AP of one average of the weights of one run.

    Attributes:
        data: name of the training set.
        average: name of the average, see :data:`UNIFORM` and :data:`EMA`; or :data:`LAST`.
        images: number of test images.
        ap: AP in percent.
    """

    data: str
    arm: str
    iterations: int
    seed: int
    average: str
    images: int
    ap: float

    @property
    def key(self) -> tuple[str, str, int, int, str, int]:
        """Attributes that no other result shares."""
        return self.data, self.arm, self.iterations, self.seed, self.average, self.images


@dataclass(frozen=True)
class Task:
    """
    A finished run.

    Attributes:
        ap: its AP in percent.
        known: averages and numbers of images that are measured.
    """

    data: str
    arm: str
    iterations: int
    seed: int
    folder: Path
    ap: float
    known: frozenset[tuple[str, int]]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, nargs="+", default=[], metavar="RUNS_DIR")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args(argv)
    results = read_records(Measured, RESULTS)
    tasks = [task for folder in args.results for task in tasks_of(folder, results)]
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), start_worker) as pool:
        for number, found in enumerate(pool.map(measure, tasks), start=1):
            results = updated(results, found)
            write_records(RESULTS, results)  # an interrupted command loses one run
            print(f"{number} of {len(tasks)} runs", flush=True)
    page = PAGE.read_text(encoding="utf-8")
    for part, table in tables(results).items():
        page = fill(page, part, "measure_spread", markdown_table(table))
    write_text(PAGE, page)


def tasks_of(folder: Path, results: Iterable[Measured]) -> Iterator[Task]:
    """Yield the finished runs of a comparison with their checkpoints; trials are left out."""
    comparison = Comparison.read(folder)
    for run in read_run_folders(comparison, folder):
        if run.result is None or run.environment is None or run.run.role == "tuning":
            continue
        data = run.environment.train[0].name
        own = (data, run.run.arm, run.run.iterations, run.run.seed)
        known = frozenset((each.average, each.images) for each in results if each.key[:4] == own)
        yield Task(*own, run.path, run.result.ap["AP"] or 0.0, known)


def measure(task: Task) -> list[Measured]:
    """Return the results of a run that are not known."""
    cfg = get_cfg()
    cfg.merge_from_file(str(task.folder / CONFIG_FILE))
    files = checkpoints(task.folder)
    own, large = SPLITS["focal_shapes_val"].images, LARGE_SPEC.images
    plan = [(name, weights, own) for name, weights in averages(list(files), task.iterations)]
    plan.append((LAST, {max(files): 1.0}, large))
    found = []
    for name, weights, images in plan:
        if (name, images) in task.known:
            continue
        ap = task.ap
        if (name, images) != (LAST, own):
            ap = evaluate(cfg, average_of(files, weights), LARGE_SET if images == large else None)
        run = (task.data, task.arm, task.iterations, task.seed)
        found.append(Measured(*run, average=name, images=images, ap=round(ap, 4)))
    return found


def checkpoints(folder: Path) -> dict[int, Path]:
    """Return iteration -> checkpoint after it, ascending."""
    return {int(file.stem[-7:]) + 1: file for file in sorted(folder.glob("model_[0-9]*.pth"))}


def averages(saved: Sequence[int], iterations: int) -> Iterator[tuple[str, dict[int, float]]]:
    """
    Yield the averages that the checkpoints allow.

    Args:
        saved: iterations with a checkpoint, ascending.
        iterations: length of the training.

    Yields:
        Name, and iteration -> weight; the weights add up to 1. An average of one checkpoint is left
        out.
    """
    yield LAST, {saved[-1]: 1.0}
    for name, share in UNIFORM.items():
        used = [i for i in saved if i > (1 - share) * iterations]
        if len(used) > 1:
            yield name, {i: 1 / len(used) for i in used}
    for name, share in EMA.items():
        if len(saved) > 1 and saved[-1] - saved[-2] < share * iterations:
            weights = {i: math.exp((i - saved[-1]) / (share * iterations)) for i in saved}
            total = sum(weights.values())
            yield name, {i: weight / total for i, weight in weights.items()}


def average_of(files: dict[int, Path], weights: dict[int, float]) -> dict[str, torch.Tensor]:
    """Return the weighted mean of the weights, and of the statistics of batch normalization."""
    mean: dict[str, torch.Tensor] = {}
    for iteration, weight in weights.items():
        for name, value in read_checkpoint(files[iteration])["model"].items():
            value = torch.as_tensor(value)
            if not value.is_floating_point():
                mean[name] = value  # counters: the last one
            elif name in mean:
                mean[name] += weight * value.double()
            else:
                mean[name] = weight * value.double()
    return {n: v.float() if v.is_floating_point() else v for n, v in mean.items()}


def evaluate(cfg: CfgNode, state: dict[str, torch.Tensor], test_set: str | None) -> float:
    """Return the AP of a model in percent; None for the test set of the run."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = cfg.clone()
        cfg.OUTPUT_DIR = folder
        cfg.MODEL.WEIGHTS = ""
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        if test_set is not None:
            cfg.DATASETS.TEST = (test_set,)
        model = Trainer.build_model(cfg)
        model.load_state_dict(state)
        return float(Trainer.test(cfg, model)["bbox"]["AP"])


def start_worker() -> None:
    """Prepare a process that evaluates."""
    torch.set_num_threads(1)
    register_shapes(LARGE_SET, LARGE_SPEC)


def tables(results: Sequence[Measured]) -> dict[str, Table]:
    """Return part of the page -> its table."""
    return {"averages": averages_table(results), "lengths": schedule_table(results)}


def averages_table(results: Sequence[Measured]) -> Table:
    """Return spread and AP of each average of the weights, and of the larger test set."""
    rows = []
    for own, of_group in groups(results).items():
        base = of_group[LAST, SPLITS["focal_shapes_val"].images]
        last_first = sorted(of_group.items(), key=lambda item: item[0][0] != LAST)
        for (average, images), by_seed in last_first:
            rows.append(cells(label(*own), average, images, *numbers(by_seed, base)))
    header = ("runs", "weights", "images", *NUMBERS)
    return Table("averages", header, tuple(rows))


def schedule_table(results: Sequence[Measured]) -> Table:
    """Return spread and AP of the last weights."""
    rows = []
    for own, of_group in groups(results).items():
        by_seed = of_group[LAST, SPLITS["focal_shapes_val"].images]
        rows.append(cells(label(*own), *numbers(by_seed, by_seed)[:3]))
    return Table("lengths", ("runs", *NUMBERS[:3]), tuple(rows))


def label(data: str, arm: str, iterations: int) -> str:
    """Return the name of runs in a table; the built-in dataset goes without saying."""
    elsewhere = "" if data == TRAINING_SET else f", {data}"
    return f"{arm}, {iterations:,}{elsewhere}"


def cells(*values: object) -> tuple[str, ...]:
    return tuple(map(str, values))


def groups(
    results: Iterable[Measured],
) -> dict[tuple[str, str, int], dict[tuple[str, int], dict[int, float]]]:
    """Return arm -> average and number of images -> seed -> AP, of arms with enough seeds."""
    found: dict[tuple[str, str, int], dict[tuple[str, int], dict[int, float]]] = {}
    for each in results:
        of_arm = found.setdefault((each.data, each.arm, each.iterations), {})
        of_arm.setdefault((each.average, each.images), {})[each.seed] = each.ap
    return {
        arm: {name: by_seed for name, by_seed in of_arm.items() if len(by_seed) >= FEWEST}
        for arm, of_arm in found.items()
        if max(map(len, of_arm.values())) >= FEWEST
    }


NUMBERS = ("seeds", "AP", "std (95% interval)", "AP minus that of the last", "variance ratio")


def numbers(by_seed: dict[int, float], base: dict[int, float]) -> tuple[object, ...]:
    """Return the cells of :data:`NUMBERS`."""
    values = np.array(list(by_seed.values()))
    std, (low, high) = values.std(ddof=1), std_interval(values)
    alone = len(values), f"{values.mean():.2f}", f"{std:.2f} ({low:.2f} to {high:.2f})"
    if by_seed is base:
        return *alone, NOTHING, NOTHING
    difference = paired_difference(by_seed, base)
    seeds = sorted(by_seed.keys() & base.keys())
    ratio, between = variance_ratio(
        np.array([by_seed[s] for s in seeds]), np.array([base[s] for s in seeds])
    )
    return (
        *alone,
        f"{signed(difference.mean, 2)} ({interval_text(difference.interval, 2)})",
        f"{ratio:.2f} ({between[0]:.2f} to {between[1]:.2f})",
    )


def std_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of the standard deviation of normal values, by chi squared."""
    freedom = len(values) - 1
    square = freedom * values.var(ddof=1)
    low, high = stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], freedom)
    return math.sqrt(square / low), math.sqrt(square / high)


def variance_ratio(
    a: np.ndarray, b: np.ndarray, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """
    Return var(a) / var(b) of paired normal values, with its interval.

    Source: Pitman, A Note on Normal Correlation, Biometrika 31 (1939).
    """
    ratio = a.var(ddof=1) / b.var(ddof=1)
    freedom = len(a) - 2
    t = stats.t.ppf((1 + level) / 2, freedom)
    k = 1 + 2 * (1 - np.corrcoef(a, b)[0, 1] ** 2) * t**2 / freedom
    root = math.sqrt(k**2 - 1)
    return ratio, (ratio * (k - root), ratio * (k + root))


if __name__ == "__main__":
    main()
