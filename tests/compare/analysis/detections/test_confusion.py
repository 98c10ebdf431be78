import numpy as np
import pytest

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.analysis.detections.confusion import confusion, images_without_objects
from focal_plugin.compare.analysis.detections.counted import counted_detections
from focal_plugin.compare.analysis.detections.run_decisions import run_decisions

from .brute_force import iou, matched, objects_of
from .coco_cases import CATEGORIES, ground_truth, random_case, write

CLASSES = sorted(CATEGORIES)
BACKGROUND = len(CLASSES)


def brute_confusion(truth, shown):
    """Count in plain loops: the matches of the class first, then the rest by score."""
    counts = {}

    def add(true, predicted):
        counts[true, predicted] = counts.get((true, predicted), 0) + 1

    taken = {e["object"]["id"] for e in shown if e["object"] is not None}
    for entry in sorted(shown, key=lambda e: -e["score"]):
        predicted = CLASSES.index(entry["category_id"])
        if entry["object"] is not None:
            add(predicted, predicted)
            continue
        best, best_iou = None, 0.0
        for a in objects_of(truth):
            if a["image_id"] == entry["image_id"] and a["id"] not in taken:
                value = iou(entry["bbox"], a["bbox"])
                if value >= 0.5 and value > best_iou:
                    best, best_iou = a, value
        if best is None:
            add(BACKGROUND, predicted)
        else:
            taken.add(best["id"])
            add(CLASSES.index(best["category_id"]), predicted)
    for a in objects_of(truth):
        if a["id"] not in taken:
            add(CLASSES.index(a["category_id"]), BACKGROUND)
    return counts


def as_dict(found):
    cells = zip(found.true.tolist(), found.predicted.tolist(), strict=True)
    return dict(zip(cells, found.count.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_the_confusion_equals_brute_force(tmp_path, seed):
    truth, detections = random_case(seed, images=20, false_alarms=10, tied_scores=False)
    if seed % 2:  # detections of a wrong class on an object, which random boxes seldom are
        detections += [
            {
                "image_id": a["image_id"],
                "category_id": CATEGORIES[i % 4],
                "bbox": a["bbox"],
                "score": 0.9995 - i / 10000,
            }
            for i, a in enumerate(truth["annotations"])
        ]
    evaluation = evaluate(write(tmp_path, truth), detections)
    counted = counted_detections(evaluation)
    shown = counted.score >= 0.3
    expected = [e for e in matched(truth, detections) if e["score"] >= 0.3]
    found = as_dict(confusion(evaluation, counted, shown))
    assert found == brute_confusion(truth, expected)
    if seed % 2:
        assert any(t != p for t, p in found if BACKGROUND not in (t, p))


def test_the_diagonal_has_the_correct_detections_and_the_rows_all_objects(tmp_path):
    truth, detections = random_case(3, images=30, tied_scores=False)
    evaluation = evaluate(write(tmp_path, truth), detections)
    numbers = run_decisions(evaluation)
    found = as_dict(numbers.confusion)
    objects = counted_detections(evaluation).objects
    for k in range(len(CLASSES)):
        assert sum(n for (t, _), n in found.items() if t == k) == objects[k]
        if objects[k]:
            assert found.get((k, k), 0) / objects[k] == numbers.by_class["recall"][k]
    assert (BACKGROUND, BACKGROUND) not in found


def test_a_detection_of_its_own_class_goes_before_a_better_one_of_another(tmp_path):
    truth = ground_truth([1], [_box(1, 2)], (2, 7))
    detections = [_found(7, 0.9), _found(2, 0.8)]
    evaluation = evaluate(write(tmp_path, truth), detections)
    counted = counted_detections(evaluation)
    found = as_dict(confusion(evaluation, counted, np.ones(2, bool)))
    assert found == {(0, 0): 1, (2, 1): 1}
    # without it, the other one takes the object
    shown = counted.category == 1
    assert as_dict(confusion(evaluation, counted, shown)) == {(0, 1): 1}
    nothing = np.zeros(2, bool)
    assert as_dict(confusion(evaluation, counted, nothing)) == {(0, 2): 1}


def test_false_positives_are_counted_on_images_without_objects_alone(tmp_path):
    crowd = {**_box(9, 2), "image_id": 3, "iscrowd": 1}
    truth = ground_truth([1, 2, 3, 4], [_box(1, 2), crowd], (2,))
    evaluation = evaluate(write(tmp_path, truth), [])
    assert images_without_objects(evaluation.ground_truth).tolist() == [False, True, False, True]
    annotations = [{**_box(i, 2), "image_id": i} for i in range(1, 21)]
    truth = ground_truth(range(1, 31), annotations, (2,))
    detections = [{**_found(2, 0.9), "image_id": i} for i in range(1, 21)]
    detections += [{**_found(2, 0.95), "image_id": i} for i in (21, 21, 22)]
    detections += [{**_found(2, 0.1), "image_id": i} for i in range(21, 31)]
    found = run_decisions(evaluate(write(tmp_path, truth), detections))
    assert (found.quantities["false_positives"], found.empty_images) == (0.3, 10)


def test_without_empty_images_there_is_no_rate(tmp_path):
    evaluation = evaluate(write(tmp_path, ground_truth([1], [_box(1, 2)], (2,))), [])
    found = run_decisions(evaluation)
    assert np.isnan(found.quantities["false_positives"])
    assert found.empty_images == 0
    assert as_dict(found.confusion) == {(0, 1): 1}


def _box(id_, category):
    return {
        "id": id_,
        "image_id": 1,
        "category_id": category,
        "bbox": [10, 10, 40, 40],
        "area": 1600,
        "iscrowd": 0,
    }


def _found(category, score):
    return {"image_id": 1, "category_id": category, "bbox": [10, 10, 40, 40], "score": score}
