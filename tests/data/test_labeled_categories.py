"""Partly labeled images: from the fields of a COCO file to the instances of a batch."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

import focal_plugin_commands as commands
from focal_plugin import get_cfg
from focal_plugin.data import check_coco, register_datasets
from focal_plugin.data.checks.check_coco import check_dicts
from focal_plugin.data.ignore_regions import convert_ignore_regions
from focal_plugin.data.labeled_categories import labeled_ids, rows_of_partly_labeled
from focal_plugin.data.loading.image_cache import CachedCrowdDatasetMapper, build_train_mapper
from focal_plugin.data.loading.labeled_classes import LabeledClasses
from focal_plugin.data.loading.stream import build_train_loader
from focal_plugin.data.loading.training_set import load_training_set
from focal_plugin.engine.partial_labels import count_partly_labeled

CATEGORIES = [{"id": n, "name": name} for n, name in ((9, "cat"), (2, "dog"), (5, "cow"))]
"""Class 0 is the dog, class 1 the cow and class 2 the cat."""

FIELDS = {
    1: {},
    2: {"labeled_categories": [9, 5, 9]},
    3: {"labeled_categories": []},
    4: {"neg_category_ids": [5], "not_exhaustive_category_ids": [9]},
    5: {"neg_category_ids": [2]},
}
LABELED = {2: [1, 2], 3: [], 4: [1], 5: [0, 2]}
"""Labeled classes by image; all images but the third have a cat."""


@pytest.fixture
def file(tmp_path):
    for number in FIELDS:
        Image.linear_gradient("L").resize((32, 32)).save(tmp_path / f"{number}.png")
    return write(tmp_path / "a.json")


def write(file, fields=FIELDS):
    sizes = {"width": 32, "height": 32}
    images = [{"id": n, "file_name": f"{n}.png", **sizes, **x} for n, x in fields.items()]
    box = {"bbox": [4, 4, 12, 12], "area": 144, "iscrowd": 0, "category_id": 9}
    annotations = [{"id": n, "image_id": n, **box} for n in fields if n != 3]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def cfg(file):
    (name,) = register_datasets([f"partly={file}:{file.parent}"])
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (name,)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 5
    cfg.SEED = 1
    yield cfg
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def of_images(dicts):
    return {x["image_id"]: x["labeled_classes"] for x in dicts if "labeled_classes" in x}


def test_the_fields_become_the_labeled_classes_of_an_image(cfg):
    assert of_images(load_training_set(cfg)) == LABELED


def test_a_sweep_counts_the_partly_labeled_images_of_its_files(cfg):
    assert count_partly_labeled(cfg) == len(LABELED)
    cfg.MODEL.FOCAL.ANCHOR_LABELS.UNLABELED = "background"
    assert count_partly_labeled(cfg) == 0


def test_the_key_takes_all_images_as_completely_labeled(cfg):
    cfg.MODEL.FOCAL.ANCHOR_LABELS.UNLABELED = "background"
    assert of_images(load_training_set(cfg)) == {}
    cfg.MODEL.FOCAL.ANCHOR_LABELS.UNLABELED = "forget"
    with pytest.raises(ValueError, match=r"ANCHOR_LABELS.UNLABELED must be one of 'ignore', 'b"):
        load_training_set(cfg)


@pytest.mark.parametrize("cache", [0, 1])
def test_a_batch_has_the_labeled_classes_and_nothing_else_changes(cfg, cache):
    cfg.MODEL.FOCAL.DATA.IMAGE_CACHE_MIB = cache
    mapper = build_train_mapper(cfg, crowds=True)
    assert isinstance(mapper, CachedCrowdDatasetMapper) == bool(cache)
    loader = build_train_loader(cfg, mapper)
    assert loader.num_partly_labeled == len(LABELED)
    batch = next(iter(loader))
    stock = next(iter(build_train_loader(cfg, DatasetMapper(cfg, is_train=True))))
    for mine, theirs in zip(batch, stock, strict=True):
        found, expected = mine["instances"], theirs["instances"]
        assert torch.equal(mine["image"], theirs["image"])
        assert torch.equal(found.gt_boxes.tensor, expected.gt_boxes.tensor)
        assert found.has("labeled_classes") == (mine["image_id"] in LABELED)
        if found.has("labeled_classes"):
            assert found.labeled_classes.classes.tolist() == LABELED[mine["image_id"]]


def test_a_complete_data_set_has_no_such_field(cfg, file):
    write(file, {number: {} for number in FIELDS})
    loader = build_train_loader(cfg, build_train_mapper(cfg, crowds=True))
    assert loader.num_partly_labeled == 0
    assert not any(x["instances"].has("labeled_classes") for x in next(iter(loader)))


def test_the_field_stays_when_instances_are_selected_or_moved():
    instances = Instances((8, 8), gt_boxes=Boxes(torch.zeros(3, 4)))
    instances.labeled_classes = LabeledClasses(torch.tensor([1, 4]), 3)
    masks = [torch.tensor([True, False, True]), torch.tensor([2, 0]), slice(2), [0, 1]]
    for two in (instances.to("cpu")[item] for item in masks):
        assert len(two) == len(two.labeled_classes) == 2
        assert two.labeled_classes.classes.tolist() == [1, 4]
    assert len(instances[1].labeled_classes) == 1
    assert instances.to("meta").labeled_classes.classes.is_meta


@pytest.mark.parametrize(
    ("image", "annotated", "expected"),
    [
        ({"labeled_categories": [3, 3, 1]}, [7], [3, 1]),
        ({"labeled_categories": [], "neg_category_ids": [4]}, [7], []),
        ({"neg_category_ids": [4, 5]}, [7, 7, 2], [7, 2, 4, 5]),
        ({"not_exhaustive_category_ids": [7]}, [7, 2], [2]),
    ],
)
def test_the_labeled_categories_of_an_image(image, annotated, expected):
    assert labeled_ids(image, annotated) == expected


def test_empty_lists_of_lvis_count_only_if_another_one_has_an_id():
    """Converters write both lists, always empty, into the files of datasets without them."""
    empty = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    assert rows_of_partly_labeled([empty, empty]) == []
    assert rows_of_partly_labeled([empty, {"neg_category_ids": [2]}, {}]) == [0, 1]
    assert rows_of_partly_labeled([empty, {"labeled_categories": []}]) == [1]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("labeled_categories", [2, 7], "labeled_categories has the unknown id 7"),
        ("labeled_categories", [[2]], "has the unknown id [2]"),
        ("labeled_categories", [True], "has the unknown id True"),
        ("labeled_categories", "cat", "labeled_categories 'cat' is not a list"),
        ("labeled_categories", None, "labeled_categories None is not a list"),
        ("neg_category_ids", [1.5], "neg_category_ids has the unknown id 1.5"),
        ("not_exhaustive_category_ids", {}, "not_exhaustive_category_ids {} is not a list"),
    ],
)
def test_what_is_no_list_of_categories_is_an_error(file, field, value, message):
    report = check_coco(write(file, {1: {field: value}, 2: {}}), file.parent)
    (finding,) = (x for x in report.findings if x.rule == "labeled-categories")
    assert (finding.severity, finding.image_id) == ("error", 1)
    assert f"image 1 ('1.png'): {field}" in finding.message
    assert message in finding.message
    assert "image-partly-labeled" not in report.counts


def test_check_data_counts_partly_labeled_images(file, capsys):
    assert commands.focal_plugin(["check-data", f"{file}:{file.parent}"]) == 0
    out = capsys.readouterr().out
    assert "note image-partly-labeled (4): an image states the categories" in out
    assert "image 4 ('4.png'): neg_category_ids [5], not_exhaustive_category_ids [9]" in out


@pytest.mark.parametrize("labeled", [[3], [-1], ["cat"], "cat", None, [True]])
def test_labeled_classes_of_a_dict_must_be_classes(file, labeled):
    image = {"file_name": str(file.parent / "1.png"), "image_id": 1, "annotations": []}
    good = check_dicts([{**image, "labeled_classes": [0, 2]}], num_classes=3)
    assert "labeled-categories" not in good.counts
    report = check_dicts([{**image, "labeled_classes": labeled}], num_classes=3)
    assert report.counts["labeled-categories"] == 1


def test_an_ignored_category_leaves_the_lists(file, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(file.parent / "datasets"))
    copy = convert_ignore_regions(file, ["cow"]).json_file
    images = json.loads(copy.read_text())["images"]
    assert images[1]["labeled_categories"] == [9, 9]
    assert images[3]["neg_category_ids"] == []
