import numpy as np
import pytest

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.analysis.detections.disagreement import (
    best_threshold,
    image_f1,
    image_scores,
    most_different_images,
)

from .coco_cases import ground_truth, write

BOX, NOWHERE = [0, 0, 40, 40], [90, 90, 40, 40]
IDS = (3, 5, 8, 9)


def annotations(*image_ids, **more):
    return [
        {"id": n, "image_id": i, "category_id": 7, "bbox": BOX, "area": 1600, "iscrowd": 0, **more}
        for n, i in enumerate(image_ids, 1)
    ]


def detection(image_id, score, box=BOX):
    return {"image_id": image_id, "category_id": 7, "bbox": box, "score": score}


def evaluated(tmp_path, detections, objects=None, image_ids=IDS):
    objects = annotations(3, 5, 8) if objects is None else objects
    return evaluate(write(tmp_path, ground_truth(image_ids, objects)), detections)


def scored(*args):
    return image_scores(evaluated(*args))


def test_f1_counts_the_shown_detections_of_an_image(tmp_path):
    shown = [detection(3, 0.9), detection(3, 0.8, NOWHERE), detection(5, 0.4), detection(9, 0.7)]
    evaluation = evaluated(tmp_path, shown)
    # Correct and false; nothing above .5; nothing; false without objects
    assert image_f1(evaluation, 0.5) == pytest.approx([2 / 3, 0, 0, 0])
    assert image_f1(evaluation, 0.4) == pytest.approx([2 / 3, 1, 0, 0])
    assert image_f1(evaluation, 0.95)[3] == 1  # no object, no detection


def test_crowds_do_not_count(tmp_path):
    evaluation = evaluated(tmp_path, [detection(3, 0.9)], annotations(3, iscrowd=1))
    assert image_f1(evaluation, 0.5).tolist() == [1, 1, 1, 1]


def test_the_best_threshold_separates_correct_from_false_detections(tmp_path):
    shown = [detection(3, 0.9), detection(5, 0.6), *(detection(9, 0.5, NOWHERE) for _ in range(4))]
    assert best_threshold(evaluated(tmp_path, shown)) == 0.6


def test_detections_of_one_score_are_shown_together(tmp_path):
    # F1 would be largest with the first .5 alone, but the false detections share its score
    shown = [detection(3, 0.9), detection(5, 0.5)]
    shown += [detection(8, 0.5, NOWHERE) for _ in range(9)]
    assert best_threshold(evaluated(tmp_path, shown)) == 0.9


def test_a_run_without_a_correct_detection_shows_nothing(tmp_path):
    assert best_threshold(evaluated(tmp_path, [])) == float("inf")
    assert best_threshold(evaluated(tmp_path, [detection(9, 0.9)])) == float("inf")


def test_only_images_on_which_arms_differ_are_listed(tmp_path):
    arms = {
        # The scale of the scores does not matter
        "a": scored(tmp_path, [detection(3, 0.9), detection(5, 0.9), detection(8, 0.9)]),
        "b": scored(
            tmp_path, [detection(3, 0.09), detection(5, 0.09), detection(5, 0.09, NOWHERE)]
        ),
    }
    assert most_different_images(arms, IDS, 4) == [8, 5]
    assert most_different_images(arms, IDS, 1) == [8]
    assert most_different_images({"a": arms["a"]}, IDS, 4) == []


def test_ties_go_to_the_image_with_more_objects(tmp_path):
    objects = annotations(3, 8, 8, 5)
    objects[2]["bbox"] = NOWHERE
    everything = [detection(i, 0.9) for i in (3, 5, 8)] + [detection(8, 0.9, NOWHERE)]
    arms = {
        "all": scored(tmp_path, everything, objects),
        "none": scored(tmp_path, [], objects),
    }
    assert most_different_images(arms, IDS, 9) == [8, 3, 5]


def test_different_test_sets_or_no_arms_are_an_error(tmp_path):
    arms = {
        "a": scored(tmp_path, []),
        "b": scored(tmp_path, [], annotations(3)),
    }
    with pytest.raises(ValueError, match="same images"):
        most_different_images(arms, IDS, 3)
    with pytest.raises(ValueError, match="at least one arm"):
        most_different_images({}, IDS, 3)


def test_every_image_has_a_number(tmp_path):
    evaluation = evaluated(tmp_path, [])
    assert image_f1(evaluation, float("inf")).shape == (4,)
    assert np.isfinite(image_f1(evaluation, float("inf"))).all()
