import math

import numpy as np
import pytest

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.analysis.detections.counted import counted_detections
from focal_plugin.compare.analysis.detections.operating_point import (
    cross_thresholds,
    half_of_images,
    mean_threshold,
    score_detections,
    shown_detections,
)
from focal_plugin.compare.analysis.detections.run_decisions import run_decisions

from .brute_force import matched, objects_of
from .coco_cases import CATEGORIES, ground_truth, random_case, write

CLASSES = sorted(CATEGORIES)


def evaluated(folder, truth, detections):
    return evaluate(write(folder, truth), detections)


def best_of(entries, objects):
    """Try every score as a threshold; the highest of the best ones, None if nothing is right."""
    best, best_f1 = None, 0.0
    for threshold in sorted({e["score"] for e in entries}, reverse=True):
        shown = [e for e in entries if e["score"] >= threshold]
        f1 = 2 * sum(e["object"] is not None for e in shown) / (len(shown) + objects)
        if f1 > best_f1 + 1e-12:
            best, best_f1 = threshold, f1
    return best


def expected_thresholds(truth, detections, half_of):
    """Return half -> threshold, and (half, category) -> threshold, by brute force."""
    found, objects = matched(truth, detections), objects_of(truth)
    together, by_class = {}, {}
    for scored in (0, 1):
        others = [e for e in found if half_of[e["image_id"]] != scored]
        truths = [a for a in objects if half_of[a["image_id"]] != scored]
        best = best_of(others, len(truths))
        together[scored] = math.inf if best is None else best
        for category in CLASSES:
            own = [e for e in others if e["category_id"] == category]
            count = sum(a["category_id"] == category for a in truths)
            best = best_of(own, count)
            by_class[scored, category] = together[scored] if best is None else best
    return found, objects, together, by_class


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tied_scores", [False, True])
def test_thresholds_and_scores_equal_brute_force(tmp_path, seed, tied_scores):
    truth, detections = random_case(seed, images=20, tied_scores=tied_scores)
    if tied_scores:  # the order of ties within an image is that of the file in both
        detections = sorted(detections, key=lambda d: -d["score"])
    evaluation = evaluated(tmp_path, truth, detections)
    half = half_of_images(20)
    half_of = dict(zip(evaluation.image_ids, half.tolist(), strict=True))
    found, objects, together, by_class = expected_thresholds(truth, detections, half_of)

    counted = counted_detections(evaluation)
    thresholds = cross_thresholds(counted, half)
    assert thresholds.together.tolist() == [together[0], together[1]]
    for scored in (0, 1):
        assert thresholds.by_class[scored].tolist() == [by_class[scored, c] for c in CLASSES]

    shown = [e for e in found if e["score"] >= by_class[half_of[e["image_id"]], e["category_id"]]]
    right = [e for e in shown if e["object"] is not None]
    numbers = run_decisions(evaluation)
    q = numbers.quantities
    assert q["precision"] == pytest.approx(len(right) / len(shown))
    assert q["recall"] == pytest.approx(len(right) / len(objects))
    assert q["f1"] == pytest.approx(2 * len(right) / (len(shown) + len(objects)))
    for k, category in enumerate(CLASSES):
        own = [e for e in shown if e["category_id"] == category]
        count = sum(a["category_id"] == category for a in objects)
        if not count:
            assert all(math.isnan(numbers.by_class[n][k]) for n in ("threshold", "recall", "f1"))
            continue
        hits = sum(e["object"] is not None for e in own)
        assert numbers.by_class["recall"][k] == pytest.approx(hits / count)
        assert numbers.by_class["f1"][k] == pytest.approx(2 * hits / (len(own) + count))

    one = [e for e in found if e["score"] >= together[half_of[e["image_id"]]]]
    hits = sum(e["object"] is not None for e in one)
    assert q["f1_one_threshold"] == pytest.approx(2 * hits / (len(one) + len(objects)))
    fixed = [e for e in found if e["score"] >= 0.5]
    hits = sum(e["object"] is not None for e in fixed)
    assert q["f1_fixed"] == pytest.approx(2 * hits / (len(fixed) + len(objects)))


def test_the_halves_are_the_same_for_every_run_and_of_equal_size():
    assert half_of_images(101).tolist() == half_of_images(101).tolist()
    assert half_of_images(101).sum() == 50
    assert half_of_images(0).tolist() == []
    assert len(set(half_of_images(40)[:20].tolist())) == 2  # not the first half of the file


def test_a_threshold_is_never_chosen_on_the_images_that_it_scores(tmp_path):
    half = half_of_images(8)
    annotations = [box(i, i) for i in range(1, 9)]
    # scores of one half are .9, those of the other one .2; each half has a false .5 as well
    detections = []
    for image, side in zip(range(1, 9), half.tolist(), strict=True):
        detections.append(detection(image, 0.9 if side else 0.2))
        detections.append(detection(image, 0.5, x=300))
    evaluation = evaluated(tmp_path, ground_truth(range(1, 9), annotations, (2,)), detections)
    thresholds = cross_thresholds(counted_detections(evaluation), half)
    assert thresholds.together.tolist() == [0.9, 0.2]
    q = run_decisions(evaluation).quantities
    # half 0 shows nothing above .9, and half 1 shows all of its 8 detections
    assert (q["precision"], q["recall"]) == (0.5, 0.5)
    assert q["threshold"] == pytest.approx(0.55)


def test_a_class_that_is_never_right_takes_the_threshold_of_all(tmp_path):
    annotations = [box(i, i) for i in range(1, 9)] + [box(100 + i, i, 7) for i in range(1, 9)]
    detections = [detection(i, 0.8) for i in range(1, 9)]
    detections += [detection(i, 0.6, x=300, category=7) for i in range(1, 9)]
    evaluation = evaluated(tmp_path, ground_truth(range(1, 9), annotations, (2, 7)), detections)
    numbers = run_decisions(evaluation)
    assert numbers.by_class["threshold"].tolist() == [0.8, 0.8]
    assert numbers.by_class["f1"].tolist() == [1, 0]
    assert math.isnan(numbers.by_class["precision"][1])


def test_a_run_without_a_correct_detection_shows_nothing(tmp_path):
    truth = ground_truth(range(1, 9), [box(i, i) for i in range(1, 9)], (2,))
    for found in ([], [detection(1, 0.9, x=300)]):
        q = run_decisions(evaluated(tmp_path, truth, found)).quantities
        assert (q["recall"], q["f1"], q["f1_one_threshold"]) == (0, 0, 0)
        assert math.isnan(q["threshold"])
        assert math.isnan(q["precision"])


def test_data_without_objects_has_no_recall(tmp_path):
    truth = ground_truth(range(1, 5), [], (2,))
    q = run_decisions(evaluated(tmp_path, truth, [detection(1, 0.9)])).quantities
    assert all(math.isnan(q[name]) for name in ("recall", "f1", "olrp"))
    assert q["d_ece"] == pytest.approx(0.9)


def test_equal_scores_pass_a_threshold_together(tmp_path):
    truth = ground_truth(range(1, 9), [box(i, i) for i in range(1, 9)], (2,))
    detections = [detection(i, 0.5) for i in range(1, 9)]
    detections += [detection(i, 0.5, x=300) for i in range(1, 9)]
    counted = counted_detections(evaluated(tmp_path, truth, detections))
    half = half_of_images(8)
    shown = shown_detections(counted, half, cross_thresholds(counted, half).by_class)
    assert shown.all()


def test_precision_recall_and_f1_of_counts():
    found = score_detections(np.array([3, 0, 0]), np.array([4, 0, 2]), np.array([6, 2, 0]))
    np.testing.assert_allclose(found.precision, [0.75, np.nan, 0])
    np.testing.assert_allclose(found.recall, [0.5, 0, np.nan])
    np.testing.assert_allclose(found.f1, [0.6, 0, np.nan])
    np.testing.assert_allclose(
        mean_threshold(np.array([[0.2, np.inf], [0.4, np.inf]])), [0.3, np.nan]
    )


def box(id_, image, category=2, x=10):
    return {
        "id": id_,
        "image_id": image,
        "category_id": category,
        "bbox": [x, 10, 40, 40],
        "area": 1600,
        "iscrowd": 0,
    }


def detection(image, score, x=10, category=2):
    return {"image_id": image, "category_id": category, "bbox": [x, 10, 40, 40], "score": score}
