"""Detections that are read in blocks."""

import json

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


@pytest.fixture(params=["orjson", "json"], autouse=True)
def parser(request, monkeypatch):
    """Read with orjson, which is optional, and without it."""
    if request.param == "json":
        monkeypatch.setattr(coco_json, "orjson", None)
    else:
        pytest.importorskip("orjson")


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


def test_detections_are_the_same_in_blocks_of_any_size(tmp_path, monkeypatch):
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


def test_a_bad_detection_has_its_number_in_the_file(tmp_path, monkeypatch):
    annotation = {"id": 1, "image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12}
    truth = read_ground_truth(write(tmp_path, ground_truth([4], [annotation])))
    good = {"image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}
    file = tmp_path / "results.json"
    file.write_text(json.dumps([*[good] * 40, {**good, "image_id": 5}, *[good] * 40]))
    monkeypatch.setattr(coco_json, "_BLOCK", 300)
    with pytest.raises(ValueError, match=r"results\.json: detection 40: image_id 5 is not"):
        read_detections(file, truth)
