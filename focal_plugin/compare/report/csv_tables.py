"""Tables of a report for programs: CSV with numbers in full precision."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from ..analysis.loss_views import AUDIT
from ..analysis.paired import Compared
from ..analysis.scores import Spread
from ..analysis.summary import Summary
from ..plan.setting import Setting
from ..runs.result import AVERAGES
from .sentences import flaw_text, standing_sentences

Cell = str | int | float | None
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
SETTING = ("lr_factor", "weight_factor")
"""Columns of a setting."""
_SPREAD = ("mean", "std", "n", "state")


def csv_text(rows: Iterable[Iterable[Cell]]) -> str:
    """
    Return rows as CSV.

    Text that a spreadsheet would execute as a formula gets a leading `'`. Numbers are unchanged,
    whatever their sign.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in rows:
        writer.writerow([_csv_cell(cell) for cell in row])
    return stream.getvalue()


def _csv_cell(cell: Cell) -> Cell:
    if isinstance(cell, str) and cell.startswith(_FORMULA):
        return f"'{cell}"
    return cell


def run_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per run."""
    fields = ("seed", "state", "exit_code", "reason", "restarts")
    more = ("iterations", "iterations_done", "iteration_s", "peak_memory_mib", "device", "threads")
    yield ["id", "arm", "role", *SETTING, *fields, *AVERAGES, *more]
    for run in summary.runs:
        yield [
            *(run.id, run.arm, run.role, *_setting_cells(run.setting)),
            *(getattr(run, name) for name in fields),
            *(run.ap.get(metric) for metric in AVERAGES),
            *(getattr(run, name) for name in more),
        ]


def arm_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per arm and quantity."""
    yield ["settings", "arm", *SETTING, "quantity", *_SPREAD, "planned", "failed"]
    for standing in filter(None, (summary.equal, summary.best)):
        for scores in standing.arms:
            counts = [scores.planned, scores.states["failed"]]
            head: list[Cell] = [standing.role, scores.arm, *_setting_cells(scores.setting)]
            for metric, spread in scores.metrics.items():
                yield [*head, metric, *_spread_cells(spread), *counts]
            if standing is summary.equal:
                cost = summary.costs[scores.arm]
                costs = (
                    ("iteration_s", cost.iteration_s),
                    ("peak_memory_mib", cost.peak_memory_mib),
                    ("training_s", cost.training_s),
                )
                recall = summary.detections.arms[scores.arm].recall
                for name, spread in (("AR", recall), *(costs if summary.trained else ())):
                    yield [*head, name, *_spread_cells(spread), *counts]


def test_set_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per test set, arm and metric, if there are several test sets."""
    yield ["test_set", "arm", "quantity", *_SPREAD]
    for test_set in summary.test_sets:
        for arm, metrics in test_set.metrics.items():
            for metric, spread in metrics.items():
                yield [test_set.name, arm, metric, *_spread_cells(spread)]


def difference_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per verdict."""
    head = ["settings", "arm", "reference", "verdict", "difference", "std", "low", "high"]
    head += ["seeds", "p_t", "p_holm", "p_sign_flip", "p_equivalent", "p_not_worse", "look"]
    yield [*head, "unplanned", "withheld_because", "sentence"]
    for standing in filter(None, (summary.equal, summary.best)):
        sentences = standing_sentences(standing, summary.reference)
        for verdict, sentence in zip(standing.verdicts, sentences, strict=True):
            found = verdict.difference
            low, high = (found and found.interval) or (None, None)
            yield [
                *(standing.role, verdict.arm, summary.reference, verdict.decision),
                *((found.mean, found.std, low, high, found.n, found.t_p) if found else [None] * 6),
                verdict.p,
                *(verdict.sign_flip_p, verdict.p_equivalent, verdict.p_not_worse),
                *(verdict.look, verdict.unplanned),
                None if verdict.flaw is None else flaw_text(verdict.flaw, summary.reference),
                sentence,
            ]


def class_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per class and arm."""
    yield ["class", "category_id", "train_objects", "test_objects", "arm", *_SPREAD]
    for i, data in enumerate(summary.detections.classes):
        head: list[Cell] = [data.label, data.category_id, data.train_objects, data.val_objects]
        for arm, found in summary.detections.arms.items():
            yield [*head, arm, *_spread_cells(found.per_class[i])]


def error_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per arm and error type: its cost, and the mean number of errors."""
    yield ["arm", "error", *_SPREAD, "count"]
    for arm, found in summary.detections.arms.items():
        for kind, spread in found.errors.items():
            yield [arm, kind, *_spread_cells(spread), found.error_counts[kind].mean]


def image_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per arm, with its difference on resampled images."""
    yield ["arm", "reference", "difference", "low", "high", "standard_error", "p", "seeds"]
    for arm, found in summary.detections.arms.items():
        if found.images is not None:
            images = found.images
            numbers = [images.difference, *images.interval, images.standard_error, images.p]
            yield [arm, summary.reference, *numbers, len(images.seeds)]


def curve_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per point of each curve."""
    yield ["arm", "quantity", "iteration", "mean", "low", "high", "runs"]
    for arm, of_arm in summary.curves.items():
        for key, c in of_arm.items():
            points = zip(c.iterations, c.mean, c.low, c.high, c.runs, strict=True)
            for point in points:
                yield [arm, key, *point]


def config_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per differing config key and arm."""
    yield ["key", "part_of_the_loss", "arm", "value"]
    for difference in summary.fairness.differences:
        for arm, value in difference.values.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            cell = value if number else str(value)
            yield [difference.key, str(difference.is_loss), arm, cell]


def audit_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per loss view and quantity."""
    yield ["arm", "part", "moment", "iteration", "loss", "options", "miner", "quantity", *_SPREAD]
    for view in summary.losses.views:
        head: list[Cell] = [view.arm, view.part, view.moment]
        head += [view.iteration, view.loss, view.options]
        for name in AUDIT:
            yield [*head, view.miner, name, *_spread_cells(view.audit[name])]


COMPARED = ("mean", "std", "n", "difference", "low", "high", "pairs")
"""Columns of :func:`compared_cells`."""


def compared_cells(found: Compared) -> list[Cell]:
    """Return the numbers of a quantity that is compared with the reference."""
    interval = found.interval or (None, None)
    return [found.mean, found.std, found.n, found.difference, *interval, found.pairs]


def _setting_cells(setting: Setting | None) -> list[Cell]:
    return [None, None] if setting is None else [setting.lr_factor, setting.weight_factor]


def _spread_cells(spread: Spread) -> list[Cell]:
    return [spread.mean, spread.std, spread.n, spread.state]
