import math

import numpy as np
import pytest

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.analysis.detections.calibration import (
    BINS,
    CALIBRATION_SCORE,
    calibration,
    calibration_error,
    reliability,
)
from focal_plugin.compare.analysis.detections.counted import counted_detections
from focal_plugin.compare.analysis.detections.match_boxes import any_overlap, paired_iou

from .brute_force import iou, matched, objects_of
from .coco_cases import CATEGORIES, ground_truth, random_case, write

CLASSES = sorted(CATEGORIES)


def calibrated(folder, truth, detections):
    evaluation = evaluate(write(folder, truth), detections)
    return calibration(evaluation, counted_detections(evaluation))


def brute_error(scores, targets):
    """Sum over 25 bins of the share of a bin times its gap, in plain loops."""
    error = 0.0
    for j in range(25):
        low, high = j / 25, (j + 1) / 25
        own = [
            (s, t)
            for s, t in zip(scores, targets, strict=True)
            if low <= s < high or (j == 24 and s == 1)
        ]
        if own:
            gap = sum(t for _, t in own) / len(own) - sum(s for s, _ in own) / len(own)
            error += len(own) / len(scores) * abs(gap)
    return error


def brute_overlaps(truth, entries):
    """IoU of each entry with the object that it takes greedily, at any overlap."""
    taken, found = set(), []
    for entry in sorted(entries, key=lambda e: -e["score"]):
        best, best_iou = None, 0.0
        for a in objects_of(truth):
            same = (a["image_id"], a["category_id"]) == (entry["image_id"], entry["category_id"])
            value = iou(entry["bbox"], a["bbox"]) if same else 0.0
            if value > best_iou and a["id"] not in taken:
                best, best_iou = a, value
        if best is not None:
            taken.add(best["id"])
        found.append((entry, best_iou))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_errors_equal_brute_force(tmp_path, seed):
    truth, detections = random_case(seed, images=25, false_alarms=9, tied_scores=False)
    found = calibrated(tmp_path, truth, detections)
    entries = [e for e in matched(truth, detections) if e["score"] >= CALIBRATION_SCORE]
    scores = [e["score"] for e in entries]
    right = [float(e["object"] is not None) for e in entries]
    assert found.d_ece == pytest.approx(brute_error(scores, right))
    assert found.bias == pytest.approx(sum(scores) / len(scores) - sum(right) / len(right))
    errors = []
    overlaps = brute_overlaps(truth, entries)
    assert any(0 < value < 0.5 for _, value in overlaps)
    for k, category in enumerate(CLASSES):
        own = [(e["score"], value) for e, value in overlaps if e["category_id"] == category]
        if not own:
            assert math.isnan(found.laece0_of_class[k])
            continue
        errors.append(brute_error(*zip(*own, strict=True)))
        assert found.laece0_of_class[k] == pytest.approx(errors[-1])
        pairs = [
            (e["score"], float(e["object"] is not None))
            for e in entries
            if e["category_id"] == category
        ]
        assert found.d_ece_of_class[k] == pytest.approx(brute_error(*zip(*pairs, strict=True)))
    assert found.laece0 == pytest.approx(np.mean(errors))


def test_a_score_on_a_limit_is_in_the_upper_bin_and_1_in_the_last():
    scores = np.array([0.0, 0.04, 0.08, 0.28, 0.56, 0.96, 1.0])
    found = reliability(scores, np.ones(7))
    assert np.flatnonzero(found.count).tolist() == [0, 1, 2, 7, 14, 24]
    assert found.count[24] == 2
    assert len(found.count) == BINS


def test_a_perfect_detector_has_no_error(tmp_path):
    truth = ground_truth([1, 2], [_box(1, 1), _box(2, 2)], (2,))
    found = calibrated(tmp_path, truth, [_found(1, 1.0), _found(2, 1.0)])
    assert (found.d_ece, found.bias, found.laece0) == (0, 0, 0)


def test_the_target_of_laece0_is_the_iou(tmp_path):
    # IoU of a box that is moved by a third of its width: (2/3) / (4/3) = .5
    truth = ground_truth([1, 2], [_box(1, 1), _box(2, 2)], (2,))
    found = calibrated(tmp_path, truth, [_found(1, 0.9, x=20), _found(2, 0.9)])
    assert found.d_ece == pytest.approx(0.1)  # both are right
    assert found.laece0 == pytest.approx(abs(0.75 - 0.9))
    # IoU 1/3 is false for D-ECE, and the target of LaECE0
    found = calibrated(tmp_path, truth, [_found(1, 0.9, x=25)])
    assert found.d_ece == pytest.approx(0.9)
    assert found.laece0 == pytest.approx(0.9 - 1 / 3)


def test_detections_below_the_cut_off_do_not_count(tmp_path):
    truth = ground_truth([1], [_box(1, 1)], (2,))
    shown = [_found(1, 0.7), _found(1, CALIBRATION_SCORE, x=200)]
    few = calibrated(tmp_path, truth, shown)
    many = calibrated(tmp_path, truth, [*shown, *(_found(1, 0.049, x=300) for _ in range(50))])
    assert few.d_ece == many.d_ece == pytest.approx((0.3 + 0.05) / 2)
    assert few.reliability.count.sum() == many.reliability.count.sum() == 2


@pytest.mark.parametrize("scores", [(), (0.01, 0.02), (3.5, 0.2)])
def test_without_scores_that_count_there_is_no_error(tmp_path, scores):
    truth = ground_truth([1], [_box(1, 1)], (2,))
    found = calibrated(tmp_path, truth, [_found(1, s) for s in scores])
    assert all(math.isnan(v) for v in (found.d_ece, found.bias, found.laece0))
    assert found.reliability.count.sum() == 0
    assert math.isnan(calibration_error(found.reliability))


def test_a_crowd_is_no_object_and_hides_the_detections_in_it(tmp_path):
    truth = ground_truth([1, 2], [_box(1, 1), {**_box(2, 2), "iscrowd": 1}], (2,))
    found = calibrated(tmp_path, truth, [_found(1, 0.8), _found(2, 0.9)])
    assert found.reliability.count.sum() == 1
    evaluation = evaluate(write(tmp_path, truth), [_found(1, 0.8), _found(2, 0.9)])
    overlaps = any_overlap(evaluation.ground_truth, evaluation.detections, np.arange(2))
    assert overlaps.tolist() == [1, 0]


def test_the_iou_of_pairs_equals_that_of_loops():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 50, (2, 30, 4))
    expected = [iou(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(paired_iou(a, b), expected)


def _box(id_, image):
    return {
        "id": id_,
        "image_id": image,
        "category_id": 2,
        "bbox": [10, 10, 30, 30],
        "area": 900,
        "iscrowd": 0,
    }


def _found(image, score, x=10):
    return {"image_id": image, "category_id": 2, "bbox": [x, 10, 30, 30], "score": score}
