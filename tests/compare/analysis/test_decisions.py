import json

import numpy as np
import pytest
from scipy import stats

from focal_plugin.compare.analysis.decisions import (
    MOST_CELLS,
    OF_CLASSES,
    QUANTITIES,
    ConfusionCell,
    decisions,
)
from focal_plugin.compare.analysis.detections.calibration import BINS, Reliability
from focal_plugin.compare.analysis.detections.confusion import Confusion
from focal_plugin.compare.analysis.detections.run_decisions import RunDecisions
from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.report.json_content import json_content

from ..fake_comparison import FakeArm, write_comparison

NAN = float("nan")


def run_of(value, cells=((0, 0, 1),), *, classes=2, count=0):
    """Decisions with the same value everywhere, plus the number of the class."""
    true, predicted, counts = np.array(cells).reshape(-1, 3).T
    bins = np.zeros(BINS)
    bins[10] = count
    return RunDecisions(
        quantities=dict.fromkeys(QUANTITIES, value),
        by_class=dict.fromkeys(OF_CLASSES, value + np.arange(classes)),
        confusion=Confusion(true, predicted, counts),
        reliability=Reliability(bins, bins * 0.41, bins * value),
        empty_images=3,
    )


def test_every_quantity_is_paired_over_the_seeds():
    values = {"CE": {1: 0.2, 2: 0.3, 3: 0.25}, "FL": {1: 0.4, 2: 0.4, 3: 0.35, 4: 0.1}}
    runs = {arm: {s: run_of(v) for s, v in of_arm.items()} for arm, of_arm in values.items()}
    found = decisions(runs, [1, 0], "CE")
    expected = stats.ttest_rel([0.4, 0.4, 0.35], [0.2, 0.3, 0.25]).confidence_interval(0.95)
    for name in QUANTITIES:
        scale = 1 if name in ("threshold", "false_positives") else 100
        own, reference = (found.arms[arm].quantities[name] for arm in ("FL", "CE"))
        assert own.mean == pytest.approx(scale * np.mean([0.4, 0.4, 0.35, 0.1]))
        assert own.std == pytest.approx(scale * np.std([0.4, 0.4, 0.35, 0.1], ddof=1))
        assert own.interval == pytest.approx((scale * expected.low, scale * expected.high))
        assert (own.pairs, reference.n, reference.difference) == (3, 3, None)
    # the classes are in the order of the report, the second one first
    assert [c["f1"].mean for c in found.arms["CE"].classes] == pytest.approx([125, 25])
    assert found.empty_images == 3


def test_a_quantity_that_a_run_lacks_is_left_out_of_its_pairs():
    runs = {"CE": {1: run_of(0.2), 2: run_of(NAN)}, "FL": {1: run_of(0.5), 2: run_of(0.1)}}
    f1 = decisions(runs, [0, 1], "CE").arms["FL"].quantities["f1"]
    assert (f1.n, f1.pairs, f1.interval) == (2, 1, None)
    assert f1.difference == pytest.approx(30)


def test_cells_that_a_run_lacks_are_zero():
    runs = {
        "CE": {1: run_of(0.5, ((0, 0, 4), (1, 2, 6))), 2: run_of(0.5, ((0, 0, 2),))},
        "FL": {1: run_of(0.5, ((2, 0, 8),)), 2: run_of(0.5, ((0, 0, 2), (2, 0, 2)))},
    }
    found = decisions(runs, [1, 0], "CE")
    assert found.cells == (
        ConfusionCell(1, 1),  # class 0 of the runs is the second one of the report
        ConfusionCell(0, None),
        ConfusionCell(None, 1),
    )
    assert [c.mean for c in found.arms["CE"].confusion] == [3, 3, 0]
    assert [c.difference for c in found.arms["FL"].confusion] == [-2, -3, 5]
    assert found.left_out == 0


def test_of_many_cells_the_largest_stay():
    k = 80
    cells = [(t, p, 1 + (t == p)) for t in range(k) for p in range(k)]
    runs = {"CE": {1: run_of(0.5, cells, classes=k)}}
    found = decisions(runs, list(range(k)), "CE")
    assert (len(found.cells), found.left_out) == (MOST_CELLS, k * k - MOST_CELLS)
    assert {ConfusionCell(i, i) for i in range(k)} <= set(found.cells)


def test_the_bins_pool_the_detections_of_all_runs():
    runs = {"CE": {1: run_of(0.2, count=30), 2: run_of(0.8, count=10), 3: run_of(0.5)}}
    bins = decisions(runs, [0, 1], "CE").arms["CE"].reliability
    found = bins[10]
    assert len(bins) == BINS
    assert found.precision == pytest.approx((30 * 0.2 + 10 * 0.8) / 40)
    assert (found.score, found.share) == (pytest.approx(0.41), 1)
    assert (found.low, found.high) == (pytest.approx(0.2), pytest.approx(0.8))
    assert (bins[0].share, bins[0].score) == (0, None)


def test_without_runs_there_are_no_decisions():
    assert decisions({"CE": {}, "FL": {}}, [0], "CE") is None


@pytest.mark.slow
def test_degenerate_runs_have_a_report(tmp_path):
    arms = {
        "CE": FakeArm(0.7),
        "empty": FakeArm(without={1: "empty", 2: "empty"}),
        "wrong": FakeArm(0.0),
        "failed": FakeArm(without={1: "failed", 2: "missing"}),
    }
    write_comparison(tmp_path, arms)
    summary = summarize(tmp_path, replicates=0)
    found = summary.detections.decisions
    empty = found.arms["empty"].quantities
    assert (empty["f1"].mean, empty["recall"].mean, empty["olrp"].mean) == (0, 0, 100)
    assert [empty[n].mean for n in ("precision", "threshold", "d_ece", "laece0")] == [None] * 4
    assert found.arms["wrong"].quantities["f1"].mean == 0
    assert found.arms["failed"].quantities["f1"].mean is None
    assert found.arms["failed"].reliability == ()
    assert found.empty_images == 0
    json.dumps(json_content(summary), allow_nan=False)
