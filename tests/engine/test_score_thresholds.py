"""Score thresholds of an evaluation."""

import contextlib
import copy
import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from pycocotools.coco import COCO

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.analysis.detections.disagreement import best_threshold
from focal_plugin.engine.evaluation import NumberedCOCOEvaluator
from focal_plugin.engine.score_thresholds import score_thresholds
from focal_plugin.json_file import read_object
from focal_plugin.score_thresholds import ScoreThresholds, best_f1

from ..compare.analysis.detections.coco_cases import CATEGORIES, random_case, write
from .test_evaluation import Evaluated, register  # noqa: F401  # the fixture


def thresholds_of(truth, detections, **options):
    ground_truth = COCO()
    ground_truth.dataset = {"info": {}, **copy.deepcopy(truth)}
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
    return score_thresholds(ground_truth, detections, test_set="cases", **options)


@pytest.mark.parametrize("seed", range(4))
def test_they_are_those_of_the_matches_of_a_comparison(seed, tmp_path):
    truth, detections = random_case(seed, images=30)
    before = copy.deepcopy(detections)
    found = thresholds_of(truth, detections)
    assert detections == before
    expected = evaluate(write(tmp_path, truth), detections)
    assert found.together.score == best_threshold(expected)
    assert [x.name for x in found.classes] == list(expected.class_names)
    assert [x.objects for x in found.classes] == expected.objects_per_class.tolist()
    for own, matches, objects in zip(
        found.classes, expected.classes, expected.objects_per_class, strict=True
    ):
        counts = ~matches.ignored[0, 0]
        best = best_f1(matches.score[counts], matches.matched[0, 0, counts], int(objects))
        assert (own.score, own.precision, own.recall, own.f1) == (best or (None,) * 4)


def test_a_class_that_is_never_found_has_no_threshold():
    truth, detections = random_case(0)
    nothing = thresholds_of(truth, [])
    assert all(x.score is None for x in (*nothing.classes, nothing.together))
    assert nothing.together.objects == sum(x["iscrowd"] == 0 for x in truth["annotations"])
    by_name = {x.name: x for x in thresholds_of(truth, detections).classes}
    assert by_name["class 41"].score is None
    assert by_name["class 7"].score is not None


def test_a_score_that_is_no_number_does_not_count():
    truth, detections = random_case(2)
    broken = [{**entry, "score": float("nan")} for entry in detections]
    found = thresholds_of(truth, [*detections, *broken])
    assert np.isfinite([x.score for x in found.classes if x.score is not None]).all()


def test_only_the_chosen_images_count():
    truth, detections = random_case(1, images=30)
    chosen = [image["id"] for image in truth["images"][:9]]
    images = [x for x in truth["images"] if x["id"] in chosen]
    kept, shown = (
        [x for x in entries if x["image_id"] in chosen]
        for entries in (truth["annotations"], detections)
    )
    expected = thresholds_of({**truth, "images": images, "annotations": kept}, shown)
    assert thresholds_of(truth, detections, image_ids=chosen) == expected


def test_an_evaluation_writes_them_beside_the_detections(register, tmp_path):  # noqa: F811
    truth, detections = random_case(1)
    classes = register(truth)
    Evaluated(NumberedCOCOEvaluator("cases", str(tmp_path)), truth, detections, classes)
    written = read_object(ScoreThresholds, tmp_path / "score_thresholds.json")
    saved = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert written == thresholds_of(truth, saved)
    assert len(written.classes) == len(CATEGORIES)
    assert json.loads(json.dumps(asdict(written)))["iou"] == 0.5
