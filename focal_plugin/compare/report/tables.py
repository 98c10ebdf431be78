"""Tables of a report for people: on the page, in Markdown and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from ...pages.table import Table
from ...pages.text import (
    NOTHING,
    compact_text,
    count_text,
    duration_text,
    interval_text,
    p_text,
    percent_text,
    plain,
    signed,
)
from ...run_folder import MOMENTS
from ..analysis.detection_analysis import ERROR_TYPES
from ..analysis.scores import NO_GROUND_TRUTH, Standing
from ..analysis.shrinkage import FEWEST_VARIANCES
from ..analysis.summary import Summary
from ..analysis.training import Cost
from ..analysis.verdicts import Verdict
from ..plan.design import FEWEST_SEEDS
from ..runs.result import AVERAGES
from .cells import runs_text, share_text, spread_text, value_text
from .precision import difference_text, verdict_interval_text
from .tuning_section import setting_cells, setting_header

AP_IN_PERCENT = "AP in percent: mean ± standard deviation between the seeds."
SHRUNK = ", with variances that are shrunk towards that of all arms"
EMPTY = " A run that detected nothing is not part of the mean; in the difference its AP is 0."


def verdict_table(summary: Summary, standing: Standing) -> Table:
    """Return the verdicts: the reference, then the arms in the order of the spec."""
    arms = [standing.arm(summary.reference)]
    arms += [scores for scores in standing.arms if scores.arm != summary.reference]
    at_best = standing.role == "best"
    header = ("arm", *(setting_header(summary) if at_best else ()), "AP", "runs")
    header = (*header, "difference", "95% interval")
    header = (*header, "p (Holm)", "p (sign\u00a0flip)", "verdict")
    rows = []
    for scores in arms:
        verdict = standing.verdict(scores.arm)
        rows.append(
            (
                plain(scores.arm),
                *(setting_cells(summary, scores.arm, scores.setting) if at_best else ()),
                spread_text(scores.metrics["AP"]),
                runs_text(scores),
                *_difference_cells(verdict),
                "reference" if verdict is None else verdict.decision,
            )
        )
    return Table(
        name="verdicts-best" if at_best else "verdicts",
        header=header,
        rows=tuple(rows),
        text_last=True,
        caption=(
            f"{AP_IN_PERCENT} The difference to the reference is paired by seed. The verdicts use "
            "the paired t test after Holm's correction over all arms"
            + (SHRUNK if len(arms) > FEWEST_VARIANCES else "")
            + f". They require at least {FEWEST_SEEDS} seeds. The sign-flip test of all arms at "
            "once, which assumes no distribution, is for comparison."
            + (EMPTY if any(scores.empty for scores in arms) else "")
        ),
    )


def averages_table(summary: Summary) -> Table:
    """Return the COCO averages of all arms, without sizes that have no objects."""
    sizes = [metric for metric in AVERAGES if not _has_no_objects(summary, metric)]
    rows = []
    for scores in summary.equal.arms:
        averages = [spread_text(scores.metrics[metric]) for metric in sizes]
        recall = summary.detections.arms[scores.arm].recall
        rows.append((plain(scores.arm), *averages, spread_text(recall)))
    without = [metric for metric in AVERAGES if metric not in sizes]
    return Table(
        name="averages",
        header=("arm", *sizes, "AR"),
        rows=tuple(rows),
        caption=(
            AP_IN_PERCENT
            + (" AP to APl are from Detectron2's evaluator." if summary.trained else "")
            + " AR (100 detections per class and image) is from the same detections."
            + (f" No ground truth: {', '.join(without)}." if without else "")
        ),
    )


def test_set_table(summary: Summary) -> Table | None:
    """Return the AP of all arms on every test set; None if there is only one."""
    if not summary.test_sets:
        return None
    rows = []
    for arm in summary.arms:
        row = [plain(arm)]
        for test_set in summary.test_sets:
            difference = test_set.differences[arm]
            row.append(spread_text(test_set.metrics[arm]["AP"]))
            row.append(NOTHING if difference is None else signed(difference.mean))
        rows.append(tuple(row))
    names = [plain(test_set.name) for test_set in summary.test_sets]
    return Table(
        name="test-sets",
        header=("arm", *(cell for name in names for cell in (name, "difference"))),
        rows=tuple(rows),
        caption=(
            f"{AP_IN_PERCENT} The difference is the mean over the seeds. The verdicts and all "
            f"other sections are about {names[0]}."
        ),
    )


def _has_no_objects(summary: Summary, metric: str) -> bool:
    spreads = [scores.metrics[metric] for scores in summary.equal.arms]
    states = [value for spread in spreads for value in spread.by_seed.values()]
    return NO_GROUND_TRUTH in states and not any(spread.n for spread in spreads)


def class_table(summary: Summary) -> Table | None:
    """Return the AP of each class, the most frequent first; None without an evaluation."""
    if not summary.detections.classes:
        return None
    training = ("objects, training",) if summary.trained else ()
    header = ("class", *training, "objects, test", *map(plain, summary.arms))
    rows = []
    for i, data in enumerate(summary.detections.classes):
        trained = (NOTHING if data.train_objects is None else f"{data.train_objects:,}",)
        values = [spread_text(summary.detections.arms[a].per_class[i]) for a in summary.arms]
        counts = (*(trained if training else ()), f"{data.val_objects:,}")
        rows.append((plain(data.label), *counts, *values))
    if len(summary.arms) > len(rows):  # a long table is easier to read than a wide one
        header, *rows = zip(header, *rows, strict=True)
    return Table(
        name="classes",
        header=header,
        rows=tuple(rows),
        caption=AP_IN_PERCENT,
    )


def error_table(summary: Summary) -> Table | None:
    """Return the cost of each error type for each arm; None without an evaluation."""
    if not summary.detections.images:
        return None
    objects = sum(data.val_objects for data in summary.detections.classes)
    rows = []
    for arm, found in summary.detections.arms.items():
        costs = (spread_text(found.errors[kind]) for kind in ERROR_TYPES)
        rows.append((plain(arm), *costs, spread_text(found.error_counts["missed"], digits=0)))
    return Table(
        name="errors",
        header=("arm", *ERROR_TYPES, "missed objects"),
        rows=tuple(rows),
        caption=(
            "Gain of AP50 without the errors of a type, percentage points. The last column is the "
            f"number of missed objects, of {objects:,}. The cost of missed objects jumps to 0 for "
            "a class whose objects are all missed, so compare it only beside their number."
        ),
    )


def image_table(summary: Summary) -> Table | None:
    """Return the differences on resampled test images; None without resamples."""
    arms = summary.detections.arms.items()
    differences = {arm: found.images for arm, found in arms if found.images is not None}
    if not differences:
        return None
    with_p = any(found.p is not None for found in differences.values())
    rows = []
    for arm, found in differences.items():
        p = NOTHING if found.p is None else p_text(found.p)
        rows.append(
            (
                plain(arm),
                signed(found.difference),
                interval_text(found.interval),
                f"{found.standard_error:.2f}",
                *((p,) if with_p else ()),
                str(len(found.seeds)),
            )
        )
    header = ("difference", "95% interval", "standard error", *(("p",) if with_p else ()), "seeds")
    return Table(
        name="images",
        header=("arm", *header),
        rows=tuple(rows),
        caption=(
            "Difference in AP to the reference on resampled test images, the same images for both. "
            "It shows how much the difference depends on the choice of test images. It does not "
            "contain the noise of training, so it gives no verdict by itself, and one seed has no "
            "p."
        ),
    )


def cost_table(summary: Summary) -> Table | None:
    """Return the cost of a run of each arm; None if no run is done."""
    if not summary.has_results:
        return None
    rows = []
    for arm, cost in summary.costs.items():
        rows.append(
            (
                plain(arm),
                spread_text(cost.iteration_s, digits=3) if cost.iteration_s.n else NOTHING,
                _relative(cost, summary.costs[summary.reference]),
                spread_text(cost.peak_memory_mib, digits=0) if cost.peak_memory_mib.n else NOTHING,
                duration_text(cost.training_s.mean),
            )
        )
    return Table(
        name="costs",
        header=(
            "arm",
            "s/iteration",
            "relative to the reference",
            "peak memory, MiB",
            "training time",
        ),
        rows=tuple(rows),
        caption=(
            "Mean ± standard deviation between the seeds. Training time is the number of "
            "iterations of one run times the seconds per iteration, without evaluation."
        ),
    )


def config_table(summary: Summary) -> Table | None:
    """Return the keys in which arms differ, non-loss keys first; None if there are none."""
    rows = []
    ordered = sorted(summary.fairness.differences, key=lambda d: (d.is_loss, d.key))
    for difference in ordered:
        by_value: dict[str, list[str]] = {}
        for arm, value in difference.values.items():
            by_value.setdefault(plain(value), []).append(plain(arm))
        for i, (value, arms) in enumerate(by_value.items()):
            key = plain(difference.key) if i == 0 else ""
            flag = "" if i else "loss" if difference.is_loss else "not the loss"
            rows.append((key, flag, value or '""', ", ".join(arms)))
    if not rows:
        return None
    return Table("configs", ("config key", "part of", "value", "arms"), tuple(rows), left=4)


def start_table(summary: Summary) -> Table | None:
    """Return the initial state that the arms share; None if no two runs recorded it."""
    rows = []
    for arm in summary.arms:
        start = summary.fairness.starts.get(arm)
        if start is None:
            continue
        rows.append(
            (
                plain(arm),
                share_text(start.same_weights, start.seeds),
                str(start.tensors),
                share_text(start.same_data, start.seeds),
                str(start.batches),
            )
        )
    if not rows:
        return None
    return Table(
        name="starts",
        header=(
            "arm",
            "same weights",
            "tensors compared",
            "same batches",
            "first batches compared",
        ),
        rows=tuple(rows),
        caption=(
            "Number of seeds at which an arm has the initial weights and the first batches of the "
            "reference. The weights are compared bit by bit, in every tensor that both have with "
            "the same shape. Batches after the first ones are not compared."
        ),
    )


def audit_table(summary: Summary, part: str, moment: str) -> Table | None:
    """Return the sums of each loss on fixed images; None without diagnostics."""
    views = summary.losses.of(part, moment)
    if not views:
        return None
    rows = []
    for view in views:
        audit = view.audit
        numbers = ("loss_sum", "loss_pos", "loss_neg", "divided", "gradient_pos", "gradient_neg")
        shares = ("mean_probability", "easy_share", "easy_loss_share", "easy_gradient_share")
        rows.append(
            (
                plain(view.arm),
                plain(view.loss) + (f" on {plain(view.miner)}" if view.miner else ""),
                *(compact_text(audit[name].mean) for name in numbers),
                *(percent_text(audit[name].mean) for name in shares),
            )
        )
    header: tuple[str, ...]
    header = ("arm", "loss", "loss, sum", "loss of positives", "loss of negatives")
    header = (*header, "loss of a step", "gradient of positives", "gradient of negatives")
    header = (*header, "mean probability", "easy negatives", "their loss", "their gradient")
    first = views[0]
    when = "Before training" if moment == "start" else f"After {first.iteration:,} iterations"
    return Table(
        name=f"audit-{part}-{moment}",
        header=header,
        rows=tuple(rows),
        left=2,
        caption=(
            f"{when}, {part}: classification loss on {count_text(first.num_images, 'image')} with "
            f"{first.num_anchors:,} anchors, mean over the seeds. The loss of a step is the sum "
            f"divided by the normalizer. Easy negatives have every probability below .1. The last "
            f"three columns are their share of the negatives, of the loss and of the gradient."
        ),
    )


def audit_tables(summary: Summary) -> list[Table]:
    """Return the audits of all dense parts, before and after training."""
    made = (audit_table(summary, p, m) for p in summary.losses.parts for m in MOMENTS)
    return [table for table in made if table is not None]


def run_table(summary: Summary) -> Table:
    """Return every run of the comparison, in any state."""
    roles = {"equal": "", "tuning": "trial", "best": "best setting"}
    tuned = any(run.role != "equal" for run in summary.runs)
    rows = []
    for run in summary.runs:
        ap = run.ap.get("AP")
        rows.append(
            (
                plain(run.arm),
                *((roles[run.role], run.setting.name) if tuned else ()),
                str(run.seed),
                run.state,
                NOTHING if ap is None else value_text(ap),
                f"{run.iterations_done:,} of {run.iterations:,}",
                str(run.restarts),
                plain(run.reason or ""),
            )
        )
    header = ("arm", *(("for", "setting") if tuned else ()), "seed", "state", "AP", "iterations")
    header = (*header, "restarts", "reason")
    caption = "The AP of a trial is on images of the training set." if tuned else ""
    return Table("runs", header, tuple(rows), caption, left=3 if tuned else 1, text_last=True)


def fact_table(summary: Summary) -> Table | None:
    """Return versions and machines; None if no run recorded them."""
    if not summary.provenance.recorded:
        return None
    rows = []
    for fact in summary.provenance.facts:
        values = [
            plain(value) + (f" ({count_text(count, 'run')})" if fact.differs else "")
            for value, count in fact.values.items()
        ]
        rows.append((fact.name, "; ".join(values), "differs" if fact.differs else ""))
    return Table("versions", ("", "recorded by the runs", ""), tuple(rows), left=3)


def data_table(summary: Summary) -> Table | None:
    """Return the datasets; None if no run recorded them."""
    rows = [
        (
            plain(data.name),
            data.use,
            (data.sha256 or NOTHING)[:16],
            *(
                NOTHING if n is None else f"{n:,}"
                for n in (data.images, data.annotations, data.crowds, data.classes)
            ),
        )
        for data in summary.provenance.datasets
    ]
    if not rows:
        return None
    header = ("dataset", "use", "sha256", "images", "annotations", "crowds", "classes")
    return Table("data", header, tuple(rows), left=3)


def aligned(table: Table, rows: Sequence[Sequence[str]], header: Sequence[str], layout: str) -> str:
    """Return a table as text, in a layout of `tabulate`; numbers are aligned right."""
    align = ["left" if table.is_text(i) else "right" for i in range(len(header))]
    return tabulate(rows, header, layout, colalign=align, disable_numparse=True)


def _difference_cells(verdict: Verdict | None) -> tuple[str, str, str, str]:
    if verdict is None or verdict.difference is None:
        return (NOTHING,) * 4
    p_values = (verdict.p, verdict.sign_flip_p)
    p, flip = (NOTHING if value is None else p_text(value) for value in p_values)
    return difference_text(verdict), verdict_interval_text(verdict), p, flip


def _relative(cost: Cost, reference: Cost) -> str:
    if cost.iteration_s.mean is None or not reference.iteration_s.mean:
        return NOTHING
    return f"{cost.iteration_s.mean / reference.iteration_s.mean:.2f}"
