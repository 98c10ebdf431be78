"""Tests of AP over training: the rise at the end, its sentence and its figure."""

import numpy as np
import pytest

from focal_plugin.compare.analysis.progress import RISING
from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.report import figures
from focal_plugin.compare.report.arm_styles import arm_styles
from focal_plugin.compare.report.end_sentences import end_of_training_sentences

from ...each import each
from ..fake_comparison import ITERATIONS, FakeArm, folder_of, write_comparison, write_metrics


@pytest.fixture
def evaluated(tmp_path):
    """Provide a function that gives arms a curve of AP: (iteration, AP) for each seed."""

    def summary_of(**arms):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        made = write_comparison(folder, {arm: FakeArm() for arm in arms}, (1, 2))
        for arm, of_seeds in arms.items():
            for seed, points in zip((1, 2), of_seeds, strict=True):
                lines = [{"iteration": i, "total_loss": 1.0, "bbox/AP": ap} for i, ap in points]
                write_metrics(folder_of(folder, made, arm, seed), lines)
        return summarize(folder, replicates=0)

    return summary_of


def curve(*values):
    """Return evaluations every tenth of the training; the last one has the number of iterations."""
    step = ITERATIONS // 10
    return [(min(step * (i + 1) - 1, ITERATIONS), ap) for i, ap in enumerate(values)]


def rise(last, before=30.0):
    return curve(*[10.0 + i for i in range(7)], before, before, last)


def test_the_rise_is_from_the_first_evaluation_of_the_last_fifth(evaluated):
    summary = evaluated(CE=(rise(30.0), rise(30.5)), FL=(rise(32.0), rise(31.0)))
    end = summary.ends["FL"]
    assert (end.since, end.iterations) == (32, ITERATIONS)
    assert end.rises == {1: 2.0, 2: 1.0}
    assert end.mean == pytest.approx(np.mean([2.0, 1.0]))
    assert end_of_training_sentences(summary) == [
        "AP still rises at the end, from iteration 32 to 40: FL (+1.5). A longer training may "
        "change the order of the arms.",
        "AP rises by at most 0.5, or not in every seed, from iteration 32 to 40: CE.",
    ]


@each(
    ("last", "rising"),
    [((31.0, 31.0), True), ((30.0 + RISING,) * 2, False), ((33.0, 29.9), False)],
)
def test_an_arm_rises_only_if_every_seed_does(evaluated, last, rising):
    summary = evaluated(CE=tuple(map(rise, last)))
    assert summary.ends["CE"].still_rising == rising


def test_without_evaluations_at_the_end_nothing_is_said(evaluated):
    final = [(ITERATIONS, 30.0)]
    early = [(ITERATIONS // 2, 20.0), *final]
    summary = evaluated(CE=(final, final), FL=(early, early))
    assert summary.ends == {"CE": None, "FL": None}
    assert end_of_training_sentences(summary) == []


def test_evaluations_at_other_iterations_are_not_averaged(evaluated):
    other = [(35, 20.0), (ITERATIONS, 30.0)]
    assert evaluated(CE=(rise(31.0), other)).ends == {"CE": None}


def test_the_panel_has_every_evaluation_and_the_band_of_the_seeds(evaluated):
    summary = evaluated(CE=(rise(30.0), rise(34.0)))
    styles = arm_styles(summary.arms, summary.reference, list(summary.shown))
    drawing = figures.draw_progress(summary, styles)
    (axes,) = drawing.figure.axes
    line, marks = axes.lines
    assert line.get_ydata()[-1] == marks.get_ydata()[-1] == 32.0
    assert len(marks.get_xdata()) == 10
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].max() == 34.0
    single = [(ITERATIONS, 30.0)]
    assert figures.draw_progress(evaluated(CE=(single, single)), styles) is None
