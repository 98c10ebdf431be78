import numpy as np
import pytest
from pycocotools import mask

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.analysis.detections.error_types import ERROR_TYPES, error_types

from .coco_cases import ground_truth, random_case, write

# Two distant objects, and boxes with IoU .4 and .1 with FIRST
FIRST, SECOND, NOWHERE = [0, 0, 10, 10], [100, 100, 10, 10], [50, 50, 10, 10]
OVERLAP_4, OVERLAP_1 = [0, 0, 10, 4], [0, 0, 10, 1]
DOG, CAT = 1, 2


def analyze(tmp_path, objects, detections):
    """Return the error types of (category, box) and (category, box, score) on one image."""
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": c, "bbox": b, "area": 100, "iscrowd": crowd}
        for i, (c, b, crowd) in enumerate((*entry, 0)[:3] for entry in objects)
    ]
    entries = [{"image_id": 1, "category_id": c, "bbox": b, "score": s} for c, b, s in detections]
    file = write(tmp_path, ground_truth([1], annotations, (DOG, CAT)))
    return error_types(evaluate(file, entries))


def check(result, ap50, counts, cost):
    """Check counts and costs; types that are not named must be 0."""
    assert result.ap50 == pytest.approx(ap50)
    assert result.counts == {**dict.fromkeys(ERROR_TYPES, 0), **counts}
    assert result.cost == pytest.approx({**dict.fromkeys(ERROR_TYPES, 0.0), **cost}, abs=1e-12)


def test_correct_detections_have_no_cost(tmp_path):
    check(analyze(tmp_path, [(DOG, FIRST)], [(DOG, FIRST, 0.9)]), 1, {}, {})


def test_a_wrong_class(tmp_path):
    result = analyze(tmp_path, [(DOG, FIRST)], [(CAT, FIRST, 0.9)])
    check(result, 0, {"classification": 1}, {"classification": 1})


def test_a_wrong_location(tmp_path):
    result = analyze(tmp_path, [(DOG, FIRST)], [(DOG, OVERLAP_4, 0.9)])
    check(result, 0, {"localisation": 1}, {"localisation": 1})


def test_wrong_in_both(tmp_path):
    objects = [(DOG, FIRST), (CAT, SECOND)]
    result = analyze(tmp_path, objects, [(CAT, OVERLAP_4, 0.9), (CAT, SECOND, 0.8)])
    # Cats: 1/2 with the false detection before it, 1 without. Dog: missed, with precision 0
    check(result, 0.25, {"both": 1, "missed": 1}, {"both": 0.25})


def test_a_second_detection_of_one_object(tmp_path):
    objects = [(DOG, FIRST), (DOG, SECOND)]
    detections = [(DOG, FIRST, 0.9), (DOG, FIRST, 0.8), (DOG, SECOND, 0.7)]
    ap50 = (51 + 50 * 2 / 3) / 101
    result = analyze(tmp_path, objects, detections)
    check(result, ap50, {"duplicate": 1}, {"duplicate": 1 - ap50})


def test_a_detection_on_background(tmp_path):
    result = analyze(tmp_path, [(DOG, FIRST)], [(DOG, NOWHERE, 0.9), (DOG, FIRST, 0.8)])
    check(result, 0.5, {"background": 1}, {"background": 0.5})


def test_an_object_without_detection(tmp_path):
    result = analyze(tmp_path, [(DOG, FIRST), (DOG, SECOND)], [(DOG, FIRST, 0.9)])
    check(result, 51 / 101, {"missed": 1}, {"missed": 50 / 101})


def test_a_class_that_is_missed_completely_has_no_cost(tmp_path):
    result = analyze(tmp_path, [(DOG, FIRST), (CAT, SECOND)], [(DOG, FIRST, 0.9)])
    check(result, 0.5, {"missed": 1}, {})


def test_no_detections_are_missed_objects(tmp_path):
    check(analyze(tmp_path, [(DOG, FIRST), (DOG, SECOND)], []), 0, {"missed": 2}, {})


def test_the_higher_of_two_wrong_classes_on_an_object_is_corrected(tmp_path):
    objects = [(DOG, FIRST), (CAT, SECOND)]
    detections = [(CAT, FIRST, 0.9), (CAT, FIRST, 0.8), (CAT, SECOND, 0.7), (DOG, NOWHERE, 0.85)]
    result = analyze(tmp_path, objects, detections)
    counts = {"classification": 2, "background": 1}
    check(result, (0 + 1 / 3) / 2, counts, {"classification": 1 - 1 / 6})


def test_a_wrong_class_or_location_on_a_found_object_is_removed(tmp_path):
    objects = [(DOG, FIRST), (CAT, SECOND)]
    detections = [(DOG, FIRST, 0.5), (CAT, FIRST, 0.9), (DOG, OVERLAP_4, 0.8), (CAT, SECOND, 0.7)]
    result = analyze(tmp_path, objects, detections)
    counts = {"classification": 1, "localisation": 1}
    check(result, 0.5, counts, {"classification": 0.25, "localisation": 0.25})


def test_each_type_is_corrected_independently(tmp_path):
    detections = [(CAT, FIRST, 0.8), (DOG, OVERLAP_4, 0.9)]
    result = analyze(tmp_path, [(DOG, FIRST)], detections)
    counts = {"classification": 1, "localisation": 1}
    # The wrong location with the higher score does not prevent the correction of the wrong class
    check(result, 0, counts, {"classification": 0.5, "localisation": 1})


def test_a_wrong_location_precedes_a_wrong_class_and_a_duplicate(tmp_path):
    objects = [(DOG, FIRST), (CAT, OVERLAP_4)]
    kinds = analyze(tmp_path, objects, [(DOG, OVERLAP_4, 0.9)]).counts
    assert (kinds["localisation"], kinds["classification"]) == (1, 0)
    objects = [(DOG, FIRST), (CAT, FIRST)]
    kinds = analyze(tmp_path, objects, [(DOG, FIRST, 0.9), (DOG, FIRST, 0.8)]).counts
    assert (kinds["classification"], kinds["duplicate"]) == (1, 0)


def test_an_overlap_of_a_tenth_is_not_background(tmp_path):
    assert analyze(tmp_path, [(DOG, FIRST)], [(DOG, OVERLAP_1, 0.9)]).counts["localisation"] == 1
    assert analyze(tmp_path, [(DOG, FIRST)], [(CAT, OVERLAP_1, 0.9)]).counts["both"] == 1
    less = [0, 0, 10, 0.99]
    assert analyze(tmp_path, [(DOG, FIRST)], [(DOG, less, 0.9)]).counts["background"] == 1


def test_crowds_and_detections_in_them_are_no_errors(tmp_path):
    objects = [(DOG, FIRST), (DOG, [90, 90, 40, 40], 1)]
    detections = [(DOG, FIRST, 0.8), (DOG, SECOND, 0.9), (DOG, SECOND, 0.7)]
    check(analyze(tmp_path, objects, detections), 1, {}, {})
    # With another class it is an error: AP counts it as false, and a crowd is not an object
    detections = [(DOG, FIRST, 0.8), (CAT, SECOND, 0.9)]
    check(analyze(tmp_path, objects, detections), 1, {"background": 1}, {})


def test_an_empty_ground_truth_has_no_cost(tmp_path):
    result = analyze(tmp_path, [], [(DOG, FIRST, 0.9)])
    assert np.isnan([result.ap50, *result.cost.values()]).all()
    assert result.counts["background"] == 1


def iou(box, other):
    return float(mask.iou([box], [other], [0])[0, 0])


def matched_by_hand(truth, detections):
    """Return index of a detection -> object or None, without detections in crowds."""
    result, taken = {}, set()
    for index in sorted(range(len(detections)), key=lambda i: -detections[i]["score"]):
        entry = detections[index]
        here = [
            a
            for a in truth["annotations"]
            if (a["image_id"], a["category_id"]) == (entry["image_id"], entry["category_id"])
        ]
        free = [a for a in here if not a["iscrowd"] and a["id"] not in taken]
        best = max(free, key=lambda a: iou(entry["bbox"], a["bbox"]), default=None)
        if best is not None and iou(entry["bbox"], best["bbox"]) >= 0.5:
            taken.add(best["id"])
            result[index] = best
        elif not any(
            a["iscrowd"] and mask.iou([entry["bbox"]], [a["bbox"]], [1])[0, 0] >= 0.5 for a in here
        ):
            result[index] = None
    return result


def kind_by_hand(truth, entry):
    """Return the type of a false detection, and its object."""
    here = [a for a in truth["annotations"] if a["image_id"] == entry["image_id"]]
    own, other = [], []
    for a in here:
        if not a["iscrowd"]:
            side = own if a["category_id"] == entry["category_id"] else other
            side.append((iou(entry["bbox"], a["bbox"]), -a["id"], a))
    own, other = max(own, default=(0, 0, None)), max(other, default=(0, 0, None))
    if 0.1 <= own[0] < 0.5:
        return "localisation", own[2]
    if other[0] >= 0.5:
        return "classification", other[2]
    if own[0] >= 0.5:
        return "duplicate", None
    return ("background" if max(own[0], other[0]) < 0.1 else "both"), None


def ap50_of_edited(tmp_path, truth, detections, classes):
    """Return the mean over ``classes``, with 0 for a class without remaining objects."""
    evaluation = evaluate(write(tmp_path, truth), detections)
    curves = [evaluation.precision_recall(0.5, k)[1].mean() for k in classes]
    return np.mean(np.nan_to_num(curves))


@pytest.mark.parametrize("seed", range(10))
def test_costs_equal_those_of_corrected_files(tmp_path, seed):
    truth, detections = random_case(seed, images=6, tied_scores=False)
    for entry, score in zip(detections, np.linspace(0.01, 0.99, len(detections)), strict=True):
        entry["score"] = float(score)
    evaluation = evaluate(write(tmp_path, truth), detections)
    result = error_types(evaluation)
    assert result.ap50 == pytest.approx(evaluation.average_precision().averages["AP50"], abs=1e-12)

    matches = matched_by_hand(truth, detections)
    found = {a["id"] for a in matches.values() if a is not None}
    kinds = {i: kind_by_hand(truth, detections[i]) for i, a in matches.items() if a is None}
    claimed = {a["id"] for _, a in kinds.values() if a is not None}
    classes = np.flatnonzero(evaluation.objects_per_class)
    for name in ERROR_TYPES[:-1]:
        of_kind = [i for i, (kind, _) in kinds.items() if kind == name]
        assert result.counts[name] == len(of_kind)
        edited, taken = (
            {i: detections[i] for i in range(len(detections)) if i not in of_kind},
            set(),
        )
        for i in of_kind:  # by descending score
            target = kinds[i][1]
            if target is not None and target["id"] not in found | taken:
                taken.add(target["id"])
                right = {"category_id": target["category_id"], "bbox": target["bbox"]}
                edited[i] = {**detections[i], **right}
        fixed = ap50_of_edited(tmp_path, truth, list(edited.values()), classes)
        assert result.cost[name] == pytest.approx(fixed - result.ap50, abs=1e-12)
    kept = [a for a in truth["annotations"] if a["iscrowd"] or a["id"] in found | claimed]
    assert result.counts["missed"] == len(truth["annotations"]) - len(kept)
    fixed = ap50_of_edited(tmp_path, {**truth, "annotations": kept}, detections, classes)
    assert result.cost["missed"] == pytest.approx(fixed - result.ap50, abs=1e-12)
