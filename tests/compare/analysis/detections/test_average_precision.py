import json
import pickle

import numpy as np
import pytest

from focal_plugin.compare.analysis.detections.average_precision import METRICS, evaluate

from .coco_cases import (
    CATEGORIES,
    copies,
    ground_truth,
    pycocotools_averages,
    pycocotools_evaluation,
    random_case,
    write,
)

EXACT = {"abs": 1e-12, "rel": 0, "nan_ok": True}
ONE = pytest.approx(1.0, abs=1e-12, rel=0)
BOX = [10.0, 10.0, 40.0, 40.0]


def annotation(image_id=1, category_id=7, box=BOX, **more):
    entry = {"id": 1, "image_id": image_id, "category_id": category_id, "bbox": box}
    return {**entry, "area": box[2] * box[3], "iscrowd": 0, **more}


def detection(image_id=1, category_id=7, box=BOX, score=0.9):
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


@pytest.mark.parametrize("seed", range(12))
def test_weight_one_is_pycocotools(tmp_path, seed):
    truth, detections = random_case(seed, images=1 + 4 * seed)
    result = evaluate(write(tmp_path, truth), detections).average_precision()
    assert result.averages == pytest.approx(pycocotools_averages(truth, detections), **EXACT)


def test_more_than_a_hundred_detections_of_a_class_on_an_image_are_cut_as_by_pycocotools(tmp_path):
    truth, detections = random_case(1, images=3)
    generator, image_id = np.random.default_rng(0), truth["images"][0]["id"]
    truth["annotations"][0].update(image_id=image_id, category_id=7, iscrowd=0)
    right = truth["annotations"][0]["bbox"]
    scores = np.linspace(0.2, 0.9, 150)
    boxes = [right, *([float(x), 5.0, 30.0, 30.0] for x in generator.uniform(0, 90, 149))]
    detections = [
        detection(image_id, 7, box, float(score)) for box, score in zip(boxes, scores, strict=True)
    ]
    evaluation = evaluate(write(tmp_path, truth), detections)
    kept = evaluation.classes[evaluation.category_ids.index(7)].score
    assert (len(kept), kept.min()) == (100, scores[50])
    expected = pycocotools_averages(truth, detections)
    assert evaluation.average_precision().averages == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("seed", range(4))
def test_ap_by_class_and_curves_are_pycocotools(tmp_path, seed):
    truth, detections = random_case(seed)
    evaluation = evaluate(write(tmp_path, truth), detections)
    precision = pycocotools_evaluation(truth, detections).eval["precision"][:, :, :, 0, 2]
    precision = np.where(precision < 0, np.nan, precision)
    per_class = evaluation.average_precision().per_class
    assert per_class == pytest.approx(precision.mean(axis=(0, 1)), **EXACT)
    assert evaluation.category_ids == tuple(sorted(CATEGORIES))
    assert np.isnan(per_class).tolist() == [False, True, False, True, False]
    for class_index in range(len(CATEGORIES)):
        recall, curve = evaluation.precision_recall(0.75, class_index)
        assert curve == pytest.approx(precision[5, :, class_index], **EXACT)
    assert recall == pytest.approx(np.arange(101) / 100)
    mean = np.nanmean(precision[0], axis=1)
    assert evaluation.precision_recall(0.5)[1] == pytest.approx(mean, **EXACT)


@pytest.mark.parametrize("seed", range(8))
def test_whole_weights_are_copies_of_the_images(tmp_path, seed):
    truth, detections = random_case(seed, tied_scores=False)
    weights = np.random.default_rng(seed).integers(0, 4, len(truth["images"]))
    evaluation = evaluate(write(tmp_path, truth), detections)
    expected = pycocotools_averages(*copies(truth, detections, weights))
    assert evaluation.average_precision(weights).averages == pytest.approx(expected, **EXACT)


def test_equal_scores_on_several_images_keep_their_order_under_weights(tmp_path):
    truth, detections = random_case(3, images=40, tied_scores=False)
    first = {}
    for entry in detections:  # one detection per class and image, all with equal score
        first.setdefault((entry["image_id"], entry["category_id"]), {**entry, "score": 0.5})
    detections = list(first.values())
    weights = np.random.default_rng(0).integers(0, 4, 40)
    evaluation = evaluate(write(tmp_path, truth), detections)
    expected = pycocotools_averages(*copies(truth, detections, weights))
    assert evaluation.average_precision(weights).averages == pytest.approx(expected, **EXACT)


def test_only_the_ratio_of_the_weights_matters(tmp_path):
    truth, detections = random_case(5)
    evaluation = evaluate(write(tmp_path, truth), detections)
    weights = np.random.default_rng(0).uniform(0, 2, 12)
    result = evaluation.average_precision(weights).averages
    assert evaluation.average_precision(0.25 * weights).averages == pytest.approx(result, **EXACT)
    assert result != pytest.approx(evaluation.average_precision().averages, abs=1e-3, nan_ok=True)


def test_a_matrix_of_weights_is_its_rows(tmp_path):
    truth, detections = random_case(6)
    evaluation = evaluate(write(tmp_path, truth), detections)
    weights = np.random.default_rng(0).integers(0, 3, (7, 12))
    weights[3] = 0
    together = evaluation.average_precision(weights)
    for row, row_weights in enumerate(weights):
        alone = evaluation.average_precision(row_weights)
        values = {name: values[row] for name, values in together.averages.items()}
        assert values == pytest.approx(alone.averages, **EXACT)
        assert together.per_class[row] == pytest.approx(alone.per_class, **EXACT)
    assert np.isnan(together.averages["AP"]).tolist() == [row == 3 for row in range(7)]


def test_only_what_is_asked_for_is_computed_and_it_is_the_same(tmp_path):
    truth, detections = random_case(2)
    evaluation = evaluate(write(tmp_path, truth), detections)
    everything = evaluation.average_precision().averages
    for name in METRICS:
        result = evaluation.average_precision(metrics=(name,))
        assert result.averages == {name: pytest.approx(everything[name], **EXACT)}
        assert (result.per_class is not None) == (name == "AP")


def test_no_detections_are_an_ap_of_zero_with_a_flag(tmp_path):
    truth, detections = random_case(0)
    evaluation = evaluate(write(tmp_path, truth), [])
    assert not evaluation.has_detections
    assert evaluate(write(tmp_path, truth), detections).has_detections
    averages = evaluation.average_precision().averages
    assert all(averages[name] == 0 for name in ("AP", "AP50", "AP75", "AR"))
    assert evaluation.precision_recall()[1].tolist() == [0.0] * 101


def test_an_empty_ground_truth_has_no_number(tmp_path):
    truth = ground_truth([1, 2], [annotation(iscrowd=1)])
    result = evaluate(write(tmp_path, truth), [detection()]).average_precision()
    assert np.isnan(list(result.averages.values())).all()
    assert np.isnan(result.per_class).all()
    nothing = evaluate(write(tmp_path, ground_truth([], [], ())), [])
    assert np.isnan(nothing.average_precision().averages["AP"])
    assert np.isnan(nothing.precision_recall()[1]).all()


def test_a_detection_in_a_crowd_counts_neither_way(tmp_path):
    crowd = annotation(box=[100.0, 100.0, 50.0, 50.0], id=2, iscrowd=1)
    file = write(tmp_path, ground_truth([1], [annotation(), crowd]))
    inside = [detection(box=[110.0, 110.0, 9.0, 9.0], score=score) for score in (0.99, 0.98)]
    assert evaluate(file, [detection(), *inside]).average_precision().averages["AP50"] == ONE
    outside = detection(box=[200.0, 200.0, 9.0, 9.0], score=0.99)
    assert evaluate(file, [detection(), outside]).average_precision().averages[
        "AP50"
    ] == pytest.approx(0.5)


def test_an_object_of_id_zero_can_be_found_unlike_in_pycocotools(tmp_path):
    truth = ground_truth([1], [annotation(id=0)])
    assert pycocotools_averages(truth, [detection()])["AP"] == 0.0
    result = evaluate(write(tmp_path, truth), [detection()]).average_precision()
    assert result.averages["AP"] == ONE


def test_an_annotation_without_area_and_crowd_flag_is_an_object_of_its_boxs_size(tmp_path):
    bare = {key: annotation()[key] for key in ("id", "image_id", "category_id", "bbox")}
    result = evaluate(write(tmp_path, ground_truth([1], [bare])), [detection()])
    averages = result.average_precision().averages
    assert (averages["AP"], averages["APm"]) == (ONE, ONE)
    assert np.isnan(averages["APs"])


def test_a_file_of_detections_is_read_and_nothing_is_printed(tmp_path, capsys):
    truth, detections = random_case(4)
    file = tmp_path / "coco_instances_results.json"
    file.write_text(json.dumps(detections))
    from_file = evaluate(write(tmp_path, truth), file)
    from_list = evaluate(write(tmp_path, truth), detections)
    assert from_file.average_precision().averages == pytest.approx(
        from_list.average_precision().averages, **EXACT
    )
    assert capsys.readouterr() == ("", "")


def test_the_entries_that_are_given_are_not_changed(tmp_path):
    truth, detections = random_case(4)
    before = json.dumps(detections)
    evaluate(write(tmp_path, truth), detections)
    assert json.dumps(detections) == before


def test_an_evaluation_travels_between_processes(tmp_path):
    truth, detections = random_case(4)
    evaluation = evaluate(write(tmp_path, truth), detections)
    copy = pickle.loads(pickle.dumps(evaluation))
    assert copy.same_ground_truth_as(evaluation)
    assert copy.average_precision().averages == pytest.approx(
        evaluation.average_precision().averages, **EXACT
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda truth: truth["annotations"][0]["bbox"].__setitem__(0, 3.25),
        lambda truth: truth["annotations"][0].update(iscrowd=1),
        lambda truth: truth["annotations"][0].update(area=1.0),
        lambda truth: truth["annotations"].pop(),
        lambda truth: truth["images"].append({"id": 1000}),
        lambda truth: truth["categories"].append({"id": 1000}),
    ],
)
def test_another_ground_truth_is_told_apart(tmp_path, change):
    truth = ground_truth([1], [annotation(), annotation(category_id=2, id=2)])
    evaluation = evaluate(write(tmp_path, truth), [])
    change(truth)
    assert not evaluate(write(tmp_path, truth), []).same_ground_truth_as(evaluation)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), r"\(2,\) or \(B, 2\), got \(3,\)"),
        (np.ones((1, 1, 2)), "got"),
        (np.array([1.0, -1.0]), "finite and >= 0"),
        (np.array([1.0, np.nan]), "finite and >= 0"),
        (np.array([1.0, np.inf]), "finite and >= 0"),
    ],
)
def test_illegal_weights_are_an_error(tmp_path, weights, message):
    evaluation = evaluate(write(tmp_path, ground_truth([1, 2], [annotation()])), [detection()])
    with pytest.raises(ValueError, match=message):
        evaluation.average_precision(weights)


def test_an_unknown_metric_or_iou_is_an_error(tmp_path):
    evaluation = evaluate(write(tmp_path, ground_truth([1], [annotation()])), [detection()])
    with pytest.raises(ValueError, match=r"got \['mAP'\]"):
        evaluation.average_precision(metrics=("AP", "mAP"))
    with pytest.raises(ValueError, match=r"got 0\.52"):
        evaluation.precision_recall(0.52)
