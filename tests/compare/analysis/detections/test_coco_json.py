import json
import logging

import pytest

from focal_plugin.compare.analysis.detections.coco_json import read_detections, read_ground_truth

from .coco_cases import ground_truth, write

ANNOTATION = {"id": 1, "image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12}
DETECTION = {"image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}
NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, "image_id 5 is not"),
        ({"image_id": [4]}, "image_id .* is not"),
        ({"image_id": INFINITE}, "image_id inf is not"),
        ({"image_id": "4"}, "image_id '4' is not"),
        ({"category_id": True}, "category_id True is not"),
        ({"category_id": 0}, "category_id 0 is not"),
        ({"score": NAN}, "score must be a finite number, got nan"),
        ({"score": INFINITE}, "score must be a finite number, got inf"),
        ({"score": "0.5"}, "score must be a finite number, got '0.5'"),
        ({"score": None}, "score must be a finite number"),
        ({"bbox": [1, 2, NAN, 4]}, "bbox must be 4 finite numbers"),
        ({"bbox": [1, 2, 3]}, "bbox must be 4 finite numbers"),
        ({"bbox": [1, 2, 3, -4]}, "bbox must be 4 finite numbers"),
        ({"bbox": "1234"}, "bbox must be 4 finite numbers"),
        ({"bbox": None}, "bbox must be 4 finite numbers"),
    ],
)
def test_a_bad_detection_is_named_with_its_file(tmp_path, change, message):
    truth = read_ground_truth(write(tmp_path, ground_truth([4], [ANNOTATION])))
    file = tmp_path / "results.json"
    file.write_text(json.dumps([DETECTION, {**DETECTION, **change}]))
    with pytest.raises(ValueError, match=f"results.json: detection 1: {message}"):
        read_detections(file, truth)
    with pytest.raises(ValueError, match=f"detections: detection 1: {message}"):
        read_detections([DETECTION, {**DETECTION, **change}], truth)


@pytest.mark.parametrize("key", sorted(DETECTION))
def test_a_detection_without_one_of_its_keys_is_an_error(tmp_path, key):
    truth = read_ground_truth(write(tmp_path, ground_truth([4], [ANNOTATION])))
    incomplete = {name: value for name, value in DETECTION.items() if name != key}
    with pytest.raises(ValueError, match=f"detection 0: has no {key}"):
        read_detections([incomplete], truth)
    with pytest.raises(ValueError, match="detection 0: has no image_id"):
        read_detections([None], truth)


@pytest.mark.parametrize("content", ["", "[", '[{"image_id": 4, "sco', "\x00", "{}", "3", "null"])
def test_a_file_without_a_list_is_named(tmp_path, content):
    truth = read_ground_truth(write(tmp_path, ground_truth([4], [ANNOTATION])))
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"results\.json: "):
        read_detections(file, truth)
    with pytest.raises(FileNotFoundError):
        read_detections(tmp_path / "none.json", truth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 8}, "annotation 0: category_id 8 is not"),
        ({"bbox": [1, 2, NAN, 4]}, "annotation 0: bbox must be"),
        ({"bbox": [1, 2, -3, 4]}, "annotation 0: bbox must be"),
        ({"bbox": []}, "annotation 0: bbox must be"),
        ({"area": NAN}, "annotation 0: area must be a finite number"),
        ({"area": None}, "annotation 0: area must be a finite number"),
        ({"area": 10**400}, "annotation 0: area must be a finite number"),
        ({"bbox": [1, 2, 10**400, 4]}, "annotation 0: bbox must be"),
    ],
)
def test_a_bad_annotation_is_named_with_its_file(tmp_path, change, message):
    file = write(tmp_path, ground_truth([4], [{**ANNOTATION, **change}]))
    with pytest.raises(ValueError, match=f"annotations.json: {message}"):
        read_ground_truth(file)


@pytest.mark.parametrize("id_", [INFINITE, NAN, 1.5, True, None, [4], "4", 2**63])
def test_an_illegal_id_is_an_error(tmp_path, id_):
    with pytest.raises(ValueError, match=r"annotations.json: image 1: id must be an integer"):
        read_ground_truth(write(tmp_path, ground_truth([4, id_], [])))
    with pytest.raises(ValueError, match=r"annotations.json: category 1: id must be an integer"):
        read_ground_truth(write(tmp_path, ground_truth([4], [], (7, id_))))


@pytest.mark.parametrize(
    "change", [float, str, lambda i: i + 2**60], ids=["float", "text", "large"]
)
def test_legal_ids_give_the_same_arrays(tmp_path, change):
    changed = {**ANNOTATION, "image_id": change(4), "category_id": change(7)}
    plain = read_ground_truth(write(tmp_path, ground_truth([4, 5], [ANNOTATION], (7, 8))))
    ids = [change(i) for i in (4, 5)], [changed], tuple(map(change, (7, 8)))
    truth = read_ground_truth(write(tmp_path, ground_truth(*ids)))
    assert (truth.image.tolist(), truth.category.tolist()) == ([0], [0])
    assert truth.box.tolist() == plain.box.tolist()
    found = read_detections([{**DETECTION, "image_id": change(4), "category_id": change(7)}], truth)
    assert (found.image.tolist(), found.category.tolist()) == ([0], [0])
    assert (truth.digest == plain.digest) == (change is float)


def test_duplicate_ids_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="image 1: duplicate id 4"):
        read_ground_truth(write(tmp_path, ground_truth([4, 4], [])))
    with pytest.raises(ValueError, match="category 1: duplicate id 7"):
        read_ground_truth(write(tmp_path, ground_truth([4], [], (7, 7))))


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"images": [], "categories": {}, "annotations": []}', "{"]
)
def test_a_ground_truth_of_another_form_is_named(tmp_path, content):
    file = tmp_path / "annotations.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"annotations\.json: "):
        read_ground_truth(file)


def test_an_annotation_of_a_missing_image_is_left_out_with_a_warning(tmp_path, caplog):
    stray = {**ANNOTATION, "image_id": 9}
    with caplog.at_level(logging.WARNING):
        truth = read_ground_truth(write(tmp_path, ground_truth([4], [stray, ANNOTATION])))
    assert len(truth.box) == 1
    assert "1 annotations of images that are not listed" in caplog.text
