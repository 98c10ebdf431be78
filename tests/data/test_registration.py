import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from focal_plugin.data import DataError, parse_dataset_argument, register_coco_dataset


@pytest.fixture
def user_data(tmp_path):
    """Write a COCO JSON whose category ids are unordered and have gaps."""
    categories = [{"id": 9, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 5, "name": "cow"}]
    images = [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}]
    annotation = {"id": 1, "image_id": 1, "category_id": 9, "bbox": [1, 1, 4, 4], "area": 16}
    content = {
        "images": images,
        "annotations": [{**annotation, "iscrowd": 0}],
        "categories": categories,
    }
    (tmp_path / "user.json").write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    return tmp_path


@pytest.fixture
def registered(user_data, request):
    name = f"user_{request.node.name}"
    text = f"{name}={user_data}/user.json:{user_data}/images"
    register_coco_dataset(parse_dataset_argument(text))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_the_name_can_be_used_and_the_stock_loader_reads_it(registered):
    assert DatasetCatalog.get(registered)[0]["annotations"][0]["category_id"] == 2  # cat is last
    assert MetadataCatalog.get(registered).thing_classes == ["dog", "cow", "cat"]


@pytest.mark.parametrize(
    "text", ["name", "name=a.json", "=a.json:dir", "name=:dir", "name=a.json:"]
)
def test_an_invalid_argument_is_an_error_with_the_expected_form(text):
    with pytest.raises(ValueError, match=r"NAME=annotations\.json:image_dir"):
        parse_dataset_argument(text)


def test_a_path_may_hold_a_colon():
    argument = parse_dataset_argument("n=/data/12:30/a.json:/images")
    assert str(argument.json_file) == "/data/12:30/a.json"


@pytest.mark.parametrize("missing", ["user.json", "images"])
def test_a_missing_file_or_folder_is_named(user_data, missing):
    (user_data / missing).rename(user_data / "elsewhere")
    with pytest.raises(FileNotFoundError, match=missing):
        register_coco_dataset(parse_dataset_argument(f"x={user_data}/user.json:{user_data}/images"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "a list, not an object"),
        ("{}", 'no "categories"'),
        ('{"images": [], "categories": []}', '"categories" is empty'),
        ('{"images": [], "categories": [{"id": 1}]}', "name None"),
    ],
)
def test_a_json_that_is_not_coco_is_named_with_the_reason(user_data, content, reason):
    (user_data / "user.json").write_text(content)
    with pytest.raises(DataError, match=rf"(?s)user\.json.*{reason}"):
        register_coco_dataset(parse_dataset_argument(f"x={user_data}/user.json:{user_data}/images"))


def test_a_name_that_is_taken_is_refused(user_data):
    with pytest.raises(ValueError, match="focal_shapes_train"):
        register_coco_dataset(
            parse_dataset_argument(f"focal_shapes_train={user_data}/user.json:{user_data}/images")
        )
