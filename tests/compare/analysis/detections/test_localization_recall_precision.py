import math

import numpy as np
import pytest

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.analysis.detections.localization_recall_precision import optimal_lrp
from focal_plugin.compare.analysis.detections.run_decisions import run_decisions

from .brute_force import matched, objects_of
from .coco_cases import CATEGORIES, random_case, write

CLASSES = sorted(CATEGORIES)


def lrp(entries, objects, tau=0.5):
    """Return LRP and its components by their definition."""
    found = [e["iou"] for e in entries if e["object"] is not None]
    false, missed = len(entries) - len(found), objects - len(found)
    total = len(found) + false + missed
    error = (sum(1 - v for v in found) / (1 - tau) + false + missed) / total
    return (
        error,
        sum(1 - v for v in found) / len(found) if found else math.nan,
        false / len(entries) if entries and found else math.nan,
        missed / objects,
    )


def brute_optimal(entries, objects):
    thresholds = [math.inf, *sorted({e["score"] for e in entries}, reverse=True)]
    found = [lrp([e for e in entries if e["score"] >= t], objects) for t in thresholds]
    return min(found, key=lambda parts: round(parts[0], 12))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tied_scores", [False, True])
def test_the_error_of_each_class_equals_brute_force(tmp_path, seed, tied_scores):
    truth, detections = random_case(seed, images=20, tied_scores=tied_scores)
    if tied_scores:
        detections = sorted(detections, key=lambda d: -d["score"])
    numbers = run_decisions(evaluate(write(tmp_path, truth), detections))
    entries, objects = matched(truth, detections), objects_of(truth)
    names = ("olrp", "olrp_localisation", "olrp_false_positives", "olrp_false_negatives")
    rows = []
    for k, category in enumerate(CLASSES):
        count = sum(a["category_id"] == category for a in objects)
        found = [numbers.by_class[name][k] for name in names]
        if not count:
            assert all(map(math.isnan, found))
            continue
        rows.append(brute_optimal([e for e in entries if e["category_id"] == category], count))
        np.testing.assert_allclose(found, rows[-1], rtol=1e-9, atol=1e-12)
    means = [numbers.quantities[name] for name in names]
    np.testing.assert_allclose(means, np.nanmean(rows, axis=0))


def test_two_correct_detections_and_a_missed_object():
    # At .6: TP with IoU .8 and .6, no FP, 1 FN: (.2/.5 + .4/.5 + 1) / 3 = 2.2 / 3
    # At .9: TP with IoU .8, 2 FN: (.4 + 2) / 3 = .8
    found = optimal_lrp(np.array([0.9, 0.6]), np.array([0.8, 0.6]), 3)
    assert found.error == pytest.approx(2.2 / 3)
    assert found.localisation == pytest.approx(0.3)
    assert found.false_positives == 0
    assert found.false_negatives == pytest.approx(1 / 3)


def test_a_false_detection_stays_below_the_threshold():
    # All: (0 + 1 FP) / 3 = 1/3; without the false one: 0
    found = optimal_lrp(np.array([0.9, 0.8, 0.3]), np.array([1.0, 1.0, 0.0]), 2)
    assert found == (0, 0, 0, 0)
    # Before the correct ones it costs: (1 FP) / 3
    found = optimal_lrp(np.array([0.9, 0.8, 0.3]), np.array([0.0, 1.0, 1.0]), 2)
    assert found.error == pytest.approx(1 / 3)
    assert found.false_positives == pytest.approx(1 / 3)


def test_equal_scores_pass_the_threshold_together():
    # One TP with IoU 1 and one FP of the same score: (1 FP) / 2
    found = optimal_lrp(np.array([0.5, 0.5]), np.array([1.0, 0.0]), 1)
    assert found.error == pytest.approx(0.5)
    assert found.false_positives == pytest.approx(0.5)


def test_nothing_found_has_the_error_1():
    for score, iou in ((np.zeros(0), np.zeros(0)), (np.array([0.9, 0.8]), np.zeros(2))):
        found = optimal_lrp(score, iou, 4)
        assert (found.error, found.false_negatives) == (1, 1)
        assert math.isnan(found.localisation)
        assert math.isnan(found.false_positives)
    assert all(math.isnan(v) for v in optimal_lrp(np.array([0.9]), np.zeros(1), 0))
