"""Lengths of lists of detections, and the AP that shorter lists cost."""

import math

import numpy as np
import pytest

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.analysis.detections.error_types import error_types
from focal_plugin.compare.analysis.detections.list_facts import list_facts

from .coco_cases import ground_truth, pycocotools_averages, random_case, write

OBJECT = {"id": 1, "image_id": 3, "category_id": 7, "bbox": [0, 0, 40, 40], "area": 1600}
FOUND = {"image_id": 3, "category_id": 7, "bbox": [0, 0, 40, 40], "score": 0.5}


def facts(folder, truth, detections, **options):
    evaluation = evaluate(write(folder, truth), detections)
    ap = evaluation.average_precision(metrics=("AP",)).averages["AP"]
    return list_facts(evaluation, ap, **options)


def ap_of(truth, detections):
    return pycocotools_averages(truth, detections)["AP"]


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_off_costs_the_ap_that_pycocotools_loses_without_low_scores(tmp_path, seed):
    truth, detections = random_case(seed, tied_scores=False)
    for detection in detections:
        detection["score"] /= 8
    above = [d for d in detections if d["score"] > 0.05]
    found = facts(tmp_path, truth, detections)
    expected = ap_of(truth, detections) - ap_of(truth, above)
    assert found.cut_cost == pytest.approx(expected, abs=1e-12)
    assert expected > 0.004
    assert found.lowest == min(d["score"] for d in detections)


@pytest.mark.parametrize("seed", range(3))
def test_half_a_limit_costs_the_ap_that_pycocotools_loses_with_half_the_list(tmp_path, seed):
    truth, detections = random_case(seed, tied_scores=False)
    of_image = {}
    for detection in sorted(detections, key=lambda d: -d["score"]):
        of_image.setdefault(detection["image_id"], []).append(detection)
    half = [d for of_one in of_image.values() for d in of_one[:3]]
    found = facts(tmp_path, truth, detections, limit=6)
    expected = ap_of(truth, detections) - ap_of(truth, half)
    assert found.limit_cost == pytest.approx(expected, abs=1e-12)
    assert expected > 0.004
    lengths = [len(of_one) for of_one in of_image.values()]
    assert found.full == pytest.approx(sum(n >= 6 for n in lengths) / len(truth["images"]))
    assert found.per_image == pytest.approx(len(detections) / len(truth["images"]))


def test_a_limit_that_no_image_reaches_costs_nothing(tmp_path):
    found = facts(tmp_path, ground_truth([3, 4], [OBJECT]), [FOUND] * 3, limit=100)
    assert (found.limit, found.full, found.limit_cost) == (100, 0, 0)


@pytest.mark.parametrize(
    ("lengths", "limit"),
    [([5, 5, 2], 5), ([5, 4, 2], None), ([1, 1, 1], None), ([9, 9, *[1] * 50], None)],
)
def test_an_unknown_limit_is_the_length_that_many_images_share(tmp_path, lengths, limit):
    ids = [*range(3, 3 + len(lengths))]
    detections = [
        {**FOUND, "image_id": id_, "score": 0.5 / (rank + 1)}
        for id_, length in zip(ids, lengths, strict=True)
        for rank in range(length)
    ]
    found = facts(tmp_path, ground_truth(ids, [OBJECT]), detections)
    assert found.limit == limit


def test_scores_that_are_no_probabilities_have_no_cost_of_a_cut_off(tmp_path):
    for score in (-1.0, 7.0):
        found = facts(tmp_path, ground_truth([3], [OBJECT]), [{**FOUND, "score": score}])
        assert math.isnan(found.cut_cost)


def test_no_detections_have_facts_too(tmp_path):
    found = facts(tmp_path, ground_truth([3], [OBJECT]), [])
    assert (found.per_image, found.lowest, found.limit, found.full) == (0, None, None, 0)
    assert (found.cut_cost, found.limit_cost) == (0, 0)


def test_kept_detections_keep_their_objects(tmp_path):
    truth, detections = random_case(1, tied_scores=False)
    file = write(tmp_path, truth)
    evaluation = evaluate(file, detections)
    kept = evaluation.keep(evaluation.detections.score > 0.4)
    again = evaluate(file, [d for d in detections if d["score"] > 0.4])
    for mine, expected in zip(kept.classes, again.classes, strict=True):
        for name in ("image", "score", "matched", "ignored", "found", "objects"):
            assert np.array_equal(getattr(mine, name), getattr(expected, name)), name
    assert error_types(kept) == error_types(again)
