"""Ignore regions of a COCO file: crowd regions in training, of every class in the evaluation."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

import focal_plugin_commands as commands
from focal_plugin import get_cfg
from focal_plugin.compare.analysis.detections.coco_json import read_ground_truth
from focal_plugin.data import register_datasets
from focal_plugin.data.ignore_regions import FOLDER, convert_ignore_regions
from focal_plugin.data.loading import stream
from focal_plugin.data.loading.training_set import load_training_set
from focal_plugin.engine.evaluation import build_coco_evaluator
from focal_plugin.modeling import key_of_crowds

OBJECT, REGION, MARKED = [2, 2, 10, 10], [20, 20, 20, 20], [2, 30, 10, 10]
CATEGORIES = [{"id": 4, "name": "car"}, {"id": 5, "name": "DontCare"}, {"id": 9, "name": "dog"}]
ANNOTATIONS = [
    {"id": 1, "image_id": 1, "category_id": 9, "bbox": OBJECT, "area": 100, "iscrowd": 0},
    {"id": 2, "image_id": 1, "category_id": 5, "bbox": REGION},
    {"id": 3, "image_id": 1, "category_id": 9, "bbox": MARKED, "ignore": 1, "iscrowd": 0},
    {"id": 4, "image_id": 2, "category_id": 4, "bbox": OBJECT, "area": 100, "iscrowd": 0},
]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Write two images with an object each, a marked region, and a region of a category."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    for number in (1, 2):
        Image.linear_gradient("L").resize((48, 48)).save(tmp_path / f"{number}.png")
    return write(tmp_path / "a.json")


def write(file, annotations=ANNOTATIONS, categories=CATEGORIES):
    images = [{"id": n, "file_name": f"{n}.png", "width": 48, "height": 48} for n in (1, 2)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def name(file):
    (name,) = register_datasets([f"roads={file}:{file.parent}"], ["DontCare"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_a_marked_annotation_becomes_a_crowd_region_of_its_class(file):
    regions = convert_ignore_regions(file)
    assert (regions.marked, regions.of_categories) == (1, 0)
    content = json.loads(regions.json_file.read_text())
    assert content["categories"] == CATEGORIES
    assert content["annotations"][2] == {
        "id": 3, "image_id": 1, "category_id": 9, "bbox": MARKED, "iscrowd": 1, "area": 100,
    }  # fmt: skip
    assert str(regions) == '1 annotation with "ignore": 1'


def test_an_ignored_category_is_no_class_and_its_boxes_are_regions_of_every_class(file):
    regions = convert_ignore_regions(file, ["DontCare", "no such"])
    content = json.loads(regions.json_file.read_text())
    assert [x["name"] for x in content["categories"]] == ["car", "dog"]
    region = content["annotations"][1]
    assert (region["category_id"], region["iscrowd"], region["area"]) == (4, 1, 400)
    assert str(regions) == '1 annotation with "ignore": 1 and 1 of the category DontCare'


def test_the_given_file_stays_and_the_copy_is_written_once(file):
    before = file.read_bytes()
    first = convert_ignore_regions(file, ["DontCare"]).json_file
    written = first.stat().st_mtime_ns
    assert convert_ignore_regions(file, ["DontCare"]).json_file == first
    assert first.stat().st_mtime_ns == written
    assert file.read_bytes() == before
    assert convert_ignore_regions(file).json_file != first
    write(file, ANNOTATIONS[:2])
    assert convert_ignore_regions(file, ["DontCare"]).json_file != first


def test_without_ignore_regions_the_file_itself_is_used(file):
    write(file, [{**ANNOTATIONS[0], "ignore": 0}, {**ANNOTATIONS[3], "ignore": False}])
    assert convert_ignore_regions(file).json_file == file
    assert not (file.parent / "datasets" / FOLDER).exists()


@pytest.mark.parametrize("ignore", ["yes", None, 2, []])
def test_another_value_of_ignore_stays_an_error(file, ignore, capsys):
    write(file, [ANNOTATIONS[0], {**ANNOTATIONS[3], "ignore": ignore}])
    assert commands.focal_plugin(["check-data", f"{file}:{file.parent}"]) == 1
    assert "error annotation-ignore (1)" in capsys.readouterr().out


def test_a_file_of_ignored_categories_only_is_refused(file):
    with pytest.raises(ValueError, match="every category is ignored: car, DontCare, dog"):
        convert_ignore_regions(file, ["dog", "car", "DontCare"])


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [], "annotations": [3]}'])
def test_a_broken_file_is_left_to_the_checks(file, text):
    file.write_text(text)
    assert convert_ignore_regions(file, ["DontCare"]).json_file == file


def test_training_has_the_classes_without_the_ignored_one_and_regions_as_crowds(name):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (name,)
    first, second = load_training_set(cfg)
    assert MetadataCatalog.get(name).thing_classes == ["car", "dog"]
    assert [x["category_id"] for x in first["annotations"] if not x["iscrowd"]] == [1]
    assert [x["bbox"] for x in first["annotations"] if x["iscrowd"]] == [REGION, MARKED]
    assert [x["category_id"] for x in second["annotations"]] == [0]


def test_a_region_of_every_class_does_not_count_for_the_class_that_stands_in(name):
    images = DatasetCatalog.get(name)
    kept = stream._without_class_free(images[0])["annotations"]
    assert [x["category_id"] for x in kept] == [1, 1]  # not the region, whose stand-in is 0


def average_precisions(name, folder, boxes):
    """Return the AP50 of each class for detections that find all objects and ``boxes`` before."""
    evaluator = build_coco_evaluator(name, str(folder))
    evaluator.reset()
    for image in DatasetCatalog.get(name):
        objects = [x for x in image["annotations"] if not x["iscrowd"]]
        found = [(x["bbox"], x["category_id"], 0.5) for x in objects]
        if image["image_id"] == 1:
            found += [(box, each, 0.9) for box in boxes for each in (0, 1)]
        predicted = Instances((48, 48))
        tensor = torch.tensor([box for box, _, _ in found]).float()
        tensor[:, 2:] += tensor[:, :2]
        predicted.pred_boxes = Boxes(tensor)
        predicted.pred_classes = torch.tensor([each for _, each, _ in found])
        predicted.scores = torch.tensor([score for _, _, score in found])
        evaluator.process([image], [{"instances": predicted}])
    results = evaluator.evaluate()["bbox"]
    return results["AP-car"], results["AP-dog"]


def test_the_evaluation_ignores_detections_of_any_class_in_a_region_of_every_class(name, tmp_path):
    assert average_precisions(name, tmp_path, [REGION]) == pytest.approx((100, 100))
    # a crowd region takes every detection inside of it, of its own class only
    assert average_precisions(name, tmp_path, [[22, 22, 8, 8]]) == pytest.approx((100, 100))
    assert average_precisions(name, tmp_path, [MARKED]) == pytest.approx((50, 100))
    assert average_precisions(name, tmp_path, [[0, 12, 9, 9]]) == pytest.approx((50, 50))


def test_the_report_reads_the_regions_for_every_class(name):
    truth = read_ground_truth(MetadataCatalog.get(name).json_file)
    crowds = [truth.category[truth.crowd & (truth.box == box).all(1)] for box in (REGION, MARKED)]
    assert [sorted(x.tolist()) for x in crowds] == [[0, 1], [1]]


def test_check_data_counts_the_regions(file, capsys):
    command = ["check-data", f"{file}:{file.parent}", "--ignore-category"]
    assert commands.focal_plugin([*command, "DontCare", "--num-classes", "2"]) == 0
    out = capsys.readouterr().out
    assert f"{file}: 2 images, 2 objects, 2 crowds, 0 errors" in out
    assert '  1 annotation with "ignore": 1 and 1 of the category DontCare' in out
    assert commands.focal_plugin([*command, "dontcare"]) == 2
    assert "has the ignored category 'dontcare'; did you mean 'DontCare'" in capsys.readouterr().err


def test_without_a_dataset_there_is_nothing_to_ignore():
    with pytest.raises(ValueError, match="no given dataset has the ignored category 'DontCare'"):
        register_datasets([], ["DontCare"])


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (["MODEL.META_ARCHITECTURE", "FocalRetinaNet"], "MODEL.FOCAL.ANCHOR_LABELS.CROWD"),
        (
            ["MODEL.META_ARCHITECTURE", "FocalRetinaNet", "MODEL.FOCAL.MINING.NAME", "TopKMiner"],
            "",
        ),
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], "MODEL.FOCAL.ANCHOR_LABELS.CROWD"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "FocalRPN"], "MODEL.FOCAL.RPN.CROWD"),
    ],
)
def test_the_key_that_would_ignore_regions_in_training_is_known(options, key):
    cfg = get_cfg()
    cfg.merge_from_list(options)
    assert key_of_crowds(cfg) == key
    if key:
        cfg.merge_from_list([key, "ignore", "MODEL.ROI_HEADS.NAME", "FocalROIHeads"])
        assert (key_of_crowds(cfg) == "") == (cfg.MODEL.META_ARCHITECTURE != "RetinaNet")
