"""Facts of a dataset that a run records."""

import json

import pytest
from detectron2.data import MetadataCatalog

from focal_plugin.data import describe_dataset


@pytest.mark.parametrize("given", ["images", "s3://bucket/images"])
def test_a_folder_of_images_is_found_from_any_folder(tmp_path, monkeypatch, given):
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "data.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    name = f"facts_of_{tmp_path.name}"
    MetadataCatalog.get(name).set(json_file="data.json", image_root=given)
    try:
        facts = describe_dataset(name)
    finally:
        MetadataCatalog.pop(name)
    expected = given if "://" in given else str(tmp_path / given)
    assert facts["image_root"] == expected
    assert facts["json_file"] == str(tmp_path / "data.json")
