"""Detections that are read in blocks."""

import json

import numpy as np
import pytest

from focal_plugin.compare.analysis.detections import coco_json
from focal_plugin.compare.analysis.detections.coco_json import (
    read_detections,
    read_entries,
    read_ground_truth,
)

from .coco_cases import ground_truth, random_case, write

PLAIN = [{"image_id": i, "bbox": [1, 2.5, 3, i], "score": i / 64} for i in range(64)]
NESTED = [{"image_id": i, "segmentation": {"size": [1, 2], "counts": "}, {"}} for i in range(64)]


@pytest.fixture(params=["msgspec", "json"])
def parser(request, monkeypatch):
    """Read with msgspec, which is optional, and without it."""
    if request.param == "json":
        monkeypatch.setattr(coco_json, "msgspec", None)
    else:
        pytest.importorskip("msgspec")


@pytest.fixture(params=[8, 100, 2**22])
def block(request, monkeypatch):
    monkeypatch.setattr(coco_json, "_BLOCK", request.param)
    return request.param


@pytest.mark.parametrize("entries", [[], [1, 2], PLAIN, NESTED, [{"name": "}, {"}] * 64])
@pytest.mark.parametrize("indent", [None, 1])
def test_blocks_are_the_entries_of_the_file(tmp_path, block, entries, indent):
    file = tmp_path / "entries.json"
    file.write_text(f" \n{json.dumps(entries, indent=indent)}\n ")
    blocks = list(read_entries(file))
    assert [entry for part in blocks for entry in part] == entries
    if entries is PLAIN and block == 100:
        assert max(map(len, blocks)) < 8


@pytest.mark.parametrize("end", ["", "]]", "] 1", ", ]", ', {"image_id": 1]', ",\x00{}]"])
def test_a_list_that_ends_wrong_is_an_error_that_names_the_file(tmp_path, block, end):
    file = tmp_path / "cut.json"
    file.write_text(json.dumps(PLAIN)[:-1] + end)
    with pytest.raises(ValueError, match=r"cut\.json: not valid JSON"):
        list(read_entries(file))


def test_text_that_is_not_unicode_is_an_error_that_names_the_file(tmp_path, block):
    file = tmp_path / "latin.json"
    file.write_bytes(json.dumps(PLAIN)[:-1].encode() + b', {"name": "\xe9"}]')
    with pytest.raises(ValueError, match=r"latin\.json: not valid JSON"):
        list(read_entries(file))


def test_numbers_that_only_the_standard_library_reads_stay(tmp_path):
    file = tmp_path / "entries.json"
    entries = [{"score": 0.1 + 0.2, "id": 2**70}, {"score": float("inf"), "id": -0.0}]
    file.write_text(json.dumps(entries))
    (found,) = read_entries(file)
    assert found == entries
    assert [type(x) for entry in found for x in entry.values()] == [float, int, float, float]


def test_detections_are_the_same_in_blocks_of_any_size(tmp_path, monkeypatch, parser):
    truth, detections = random_case(5)
    truth = read_ground_truth(write(tmp_path, truth))
    detections[7]["score"] = 10**30  # makes its block unusual
    file = tmp_path / "results.json"
    file.write_text(json.dumps(detections))
    whole = read_detections(detections, truth)
    monkeypatch.setattr(coco_json, "_BLOCK", 300)
    in_blocks = read_detections(file, truth)
    for name, expected in vars(whole).items():
        mine = getattr(in_blocks, name)
        assert mine.dtype == expected.dtype
        assert (mine == expected).all()


def test_numbers_are_those_of_the_standard_library(tmp_path, parser):
    truth, detections = random_case(2, images=40)
    generator = np.random.default_rng(0)
    for entry in detections:
        digits = int(generator.integers(1, 19))
        entry["score"] = float(f"{generator.random():.{digits}g}")
        entry["bbox"] = (10.0 ** generator.uniform(-320, 8, 4)).tolist()
    detections[0]["bbox"], detections[1]["score"] = [1, -0.0, 2**53 + 1, 0], 5e-324
    file = tmp_path / "results.json"
    file.write_text(json.dumps(detections))
    found = read_detections(file, read_ground_truth(write(tmp_path, truth)))
    assert found.score.tolist() == [entry["score"] for entry in detections]
    assert found.box.tolist() == [[float(x) for x in entry["bbox"]] for entry in detections]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_id", 5, "image_id 5 is not in"),
        ("image_id", True, "image_id True is not in"),
        ("image_id", "4", "image_id '4' is not in"),
        ("category_id", 2**70, "category_id 1180591620717411303424 is not in"),
        ("bbox", [1, 2, 3], r"bbox must be 4 finite numbers, .* got \["),
        ("bbox", [1, 2, -3, 4], "bbox must be 4 finite numbers"),
        ("bbox", None, "bbox must be 4 finite numbers"),
        ("score", float("nan"), "score must be a finite number, got nan"),
        ("score", "0.5", "score must be a finite number, got '0.5'"),
    ],
)
def test_a_wrong_field_has_the_same_message_from_every_parser(
    tmp_path, parser, field, value, message
):
    annotation = {"id": 1, "image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12}
    truth = read_ground_truth(write(tmp_path, ground_truth([4], [annotation])))
    good = {"image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}
    file = tmp_path / "results.json"
    file.write_text(json.dumps([good, {**good, field: value}]))
    with pytest.raises(ValueError, match=rf"results\.json: detection 1: {message}"):
        read_detections(file, truth)


def test_a_bad_detection_has_its_number_in_the_file(tmp_path, monkeypatch, parser):
    annotation = {"id": 1, "image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12}
    truth = read_ground_truth(write(tmp_path, ground_truth([4], [annotation])))
    good = {"image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}
    file = tmp_path / "results.json"
    file.write_text(json.dumps([*[good] * 40, {**good, "image_id": 5}, *[good] * 40]))
    monkeypatch.setattr(coco_json, "_BLOCK", 300)
    with pytest.raises(ValueError, match=r"results\.json: detection 40: image_id 5 is not"):
        read_detections(file, truth)
