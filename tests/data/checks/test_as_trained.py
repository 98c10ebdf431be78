"""Every object that training or evaluation would lose is named before."""

import json
import logging
import time
from dataclasses import replace

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode

from focal_plugin import get_cfg
from focal_plugin.data import (
    DataError,
    check_coco,
    check_datasets,
    compare_with_training,
    register_coco_dataset,
    report_datasets,
)
from focal_plugin.data.checks import as_trained
from focal_plugin.data.checks.mapped_objects import lost_by_mapper
from focal_plugin.data.loading.training_set import load_training_set
from focal_plugin.data.registration import DatasetArgument
from focal_plugin.data.shapes.png import encode_png

NAN = float("nan")
TRIANGLE = [[2, 3, 12, 3, 12, 11]]
RLE = {"size": [24, 32], "counts": [100, 50, 618]}
NO_POLYGONS = [
    *([[1, 2, 30, 2]], [[]], [1, 2, 30, 2, 30, 20], [[[1, 2], [30, 2], [30, 20]]]),
    *({"size": [24, 32]}, "text"),
]


@pytest.fixture
def dataset(tmp_path):
    """Write two images with two objects of two classes each, with changes of some annotations."""
    names = []

    def dataset(changes=None, name="user", stock=False, classes=("cat", "dog")):
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        pixels = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)
        for number in (1, 2):
            (folder / f"images/{number}.png").write_bytes(encode_png(pixels))
        annotations = [
            {
                **{"id": number, "image_id": 1 + number % 2, "category_id": 1 + number // 3},
                **{"bbox": [number, 3, 10, 8], "area": 80, "iscrowd": 0},
                **{"segmentation": TRIANGLE},
                **(changes or {}).get(number, {}),
            }
            for number in (1, 2, 3, 4)
        ]
        content = {
            "images": [
                {"id": i, "file_name": f"{i}.png", "width": 32, "height": 24} for i in (1, 2)
            ],
            "categories": [{"id": i, "name": c} for i, c in enumerate(classes, start=1)],
            "annotations": annotations,
        }
        (folder / "a.json").write_text(json.dumps(content))
        if stock:
            register_coco_instances(name, {}, str(folder / "a.json"), str(folder / "images"))
        else:
            register_coco_dataset(DatasetArgument(name, folder / "a.json", folder / "images"))
        names.append(name)
        return folder

    yield dataset
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def config(*opts, train=("user",), test=()):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "FocalRetinaNet"
    cfg.MODEL.RETINANET.NUM_CLASSES = 2
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, test
    cfg.INPUT.MIN_SIZE_TRAIN = (24,)
    cfg.merge_from_list(list(opts))
    return cfg


def num_trained(cfg):
    mapper = DatasetMapper(cfg, is_train=True)
    return sum(len(mapper(image)["instances"]) for image in load_training_set(cfg))


MASKS = ("MODEL.MASK_ON", True)
KEYPOINTS = ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 2)
DROP = ("MODEL.FOCAL.DATA.CHECK", "drop")


# Segmentations


@pytest.mark.parametrize("segmentation", [*NO_POLYGONS, None, []])
def test_boxes_are_trained_whatever_their_segmentation_is(dataset, segmentation):
    dataset({1: {"segmentation": segmentation}, 2: {"segmentation": segmentation}})
    cfg = config(test=("user",))
    (report,) = check_datasets(cfg)
    assert (report.num("error"), report.num("warning")) == (0, 0)
    assert num_trained(cfg) == 4


@pytest.mark.parametrize("segmentation", [*NO_POLYGONS, None, []])
def test_each_object_without_a_mask_is_an_error_if_masks_are_trained(dataset, segmentation):
    dataset({2: {"segmentation": segmentation}, 3: {"segmentation": segmentation}})
    for splits in ({}, {"train": (), "test": ("user",)}):
        (report,) = report_datasets(config(*MASKS, **splits))
        missing = [f.annotation_id for f in report.findings if f.rule == "mask-missing"]
        assert missing == [2, 3]
        assert report.num("error") == 2


@pytest.mark.parametrize("segmentation", [*NO_POLYGONS, None])
def test_objects_without_a_mask_are_dropped_and_counted_if_the_config_says_so(
    dataset, segmentation
):
    dataset({2: {"segmentation": segmentation}})
    cfg = config(*MASKS, *DROP)
    (report,) = check_datasets(cfg)
    assert report.num("warning") == 1
    assert report.findings[0].annotation_id == 2
    assert num_trained(cfg) == 3


def test_a_class_of_which_no_object_is_left_is_an_error(dataset):
    dataset({3: {"segmentation": [[]]}, 4: {"segmentation": [[]]}})
    with pytest.raises(DataError, match="dog: 2 objects in the dataset, 0 in training"):
        check_datasets(config(*MASKS, *DROP))


@pytest.mark.parametrize(
    "polygon",
    [
        [500, 500, 510, 500, 510, 510],
        [5, 5, 5, 5, 5, 5],
        [4, 9, 40, 9, 20, 9],
        [-9, 0, -1, 0, -9, 9],
    ],
    ids=["outside the image", "a point", "a line", "left of the image"],
)
def test_a_polygon_without_a_pixel_of_its_box_is_named(dataset, polygon):
    dataset({2: {"segmentation": [polygon]}})
    (report,) = check_datasets(config(*MASKS))
    assert [(f.rule, f.annotation_id) for f in report.findings] == [("mask-empty", 2)]


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_rle_requires_bitmasks(dataset, mask_format):
    dataset({4: {"segmentation": RLE}})
    cfg = config(*MASKS, "INPUT.MASK_FORMAT", mask_format)
    if mask_format == "bitmask":
        assert check_datasets(cfg)[0].counts == {}
        assert num_trained(cfg) == 4
    else:
        with pytest.raises(DataError, match=r"(?s)mask-format \(1\).*annotation 4 of image 1"):
            check_datasets(cfg)


def test_a_mask_format_of_detectron2s_is_required(dataset):
    dataset()
    with pytest.raises(DataError, match=r"INPUT\.MASK_FORMAT is 'polygons'"):
        check_datasets(config(*MASKS, "INPUT.MASK_FORMAT", "polygons"))


@pytest.mark.parametrize(
    "rle", [{"size": [12, 32], "counts": [384]}, {"size": [24, 32], "counts": "!!"}]
)
def test_an_object_on_which_the_mapper_fails_is_an_error_that_names_it(dataset, rle):
    dataset({4: {"segmentation": rle}})
    with pytest.raises(DataError, match=r"(?s)mapper-fails \(1\).*annotation 4 of image 1"):
        check_datasets(config(*MASKS, "INPUT.MASK_FORMAT", "bitmask"))


# What the loader drops


@pytest.mark.parametrize("segmentation", NO_POLYGONS[:2])
def test_what_detectron2s_own_loader_drops_is_counted_by_id(dataset, segmentation):
    dataset({1: {"segmentation": segmentation}, 4: {"segmentation": segmentation}}, stock=True)
    cfg = config()
    (report,) = check_datasets(cfg)
    lost = [f for f in report.findings if f.rule == "object-lost"]
    assert [(f.annotation_id, f.image_id, f.severity) for f in lost] == [
        (4, 1, "warning"),
        (1, 2, "warning"),
    ]
    assert repr(segmentation) in lost[0].message
    assert num_trained(cfg) == 4 - report.counts["object-lost"]


def test_a_loader_that_fails_is_an_error(dataset):
    dataset({1: {"segmentation": [1, 2, 3, 4, 5, 6]}}, stock=True)
    with pytest.raises(DataError, match=r"load-fails.*\n.*TypeError"):
        check_datasets(config())


def test_a_loader_that_leaves_out_an_image_or_adds_objects_is_found(dataset):
    dataset(stock=True)
    dicts = DatasetCatalog.get("user")
    DatasetCatalog.remove("user")
    DatasetCatalog.register("user", lambda: dicts[:1])
    (report,) = report_datasets(config())
    assert [f.annotation_id for f in report.findings if f.rule == "object-lost"] == [1, 3]
    assert report.num("error") == 0
    DatasetCatalog.remove("user")
    more = {**dicts[0], "annotations": dicts[0]["annotations"] * 2}
    DatasetCatalog.register("user", lambda: [more, dicts[1]])
    (report,) = report_datasets(config())
    assert report.counts == {"training-differs": 2}
    assert report.num("error") == 2


# What the mapper drops


@pytest.mark.parametrize("box", [[31.9999999, 3, 10, 8], [20, 3, 1.04e-5, 8], [5, 20, 4, 1.04e-5]])
def test_a_box_that_only_the_mapper_finds_empty_is_counted(dataset, box):
    dataset({4: {"bbox": box, "area": 1e-9}})
    cfg = config()
    (report,) = check_datasets(cfg)
    assert {f.annotation_id for f in report.findings if f.rule == "object-lost"} == {4}
    assert num_trained(cfg) == 3


def test_an_object_that_a_rule_already_counts_is_not_counted_twice(dataset):
    dataset({1: {"bbox": [5, 5, 0, 4]}, 2: {"bbox": [50, 5, 4, 4]}, 3: {"bbox": [NAN, 1, 4, 4]}})
    (report,) = report_datasets(config())
    assert report.counts["box-empty"] == report.counts["box-outside-image"] == 1
    assert report.counts["box-nan"] == 1
    assert "object-lost" not in report.counts
    assert report.counts["class-lost"] == 1  # both cats


def test_all_boxes_empty_are_an_error(dataset):
    dataset({number: {"bbox": [5, 5, 0, number]} for number in (1, 2, 3, 4)})
    with pytest.raises(DataError, match=r"class-lost \(2\)"):
        check_datasets(config())


@pytest.mark.parametrize("check", ["normal", "drop"])
def test_the_numbers_agree_with_crowds_empty_images_and_negative_boxes(dataset, check):
    change = {"bbox": [9, 9, -1, 3]} if check == "drop" else {"iscrowd": 1}
    dataset({1: change, 2: {"iscrowd": 1}, 3: {}})
    cfg = config("MODEL.FOCAL.DATA.CHECK", check)
    (report,) = report_datasets(cfg)
    expected = {"box-negative": 1, "class-lost": 1} if check == "drop" else {}
    assert report.counts == expected
    assert num_trained(cfg) == 2


def test_chunks_of_many_objects_lose_the_same_as_single_images():
    def image(number, *boxes):
        return {
            **{"image_id": number, "file_name": f"{number}.png", "width": 32, "height": 24},
            "annotations": [
                {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0} for box in boxes
            ],
        }

    good, outside, broken = [1, 2, 3, 4], [40, 2, 3, 4], [1, 2, "x", 4]
    dicts = [image(n, *([good] * 7), *([outside] * (n % 3 == 0))) for n in range(300)]
    dicts[150]["annotations"][2]["bbox"] = broken
    lost = lost_by_mapper(config(), dicts)
    named = [(x.image["image_id"], x.position, x.rule) for x in lost]
    outsiders = [(n, 7, "object-lost") for n in range(0, 300, 3)]
    assert sorted(named) == sorted([*outsiders, (150, 2, "mapper-fails")])


def test_no_image_is_decoded_and_no_annotation_changes(dataset, monkeypatch):
    dataset()
    cfg = config(*MASKS)
    dicts = load_training_set(cfg)
    before = json.dumps(dicts)
    monkeypatch.setattr("PIL.Image.open", None)
    assert lost_by_mapper(cfg, dicts) == []
    assert json.dumps(dicts) == before


def test_the_loader_logs_nothing_in_the_check(dataset, caplog):
    dataset({1: {"segmentation": [[]]}}, stock=True)
    with caplog.at_level(logging.INFO):
        check_datasets(config())
    assert caplog.messages == []
    logging.getLogger("detectron2").warning("again")
    assert caplog.messages == ["again"]


@pytest.mark.slow
def test_the_comparison_takes_little_longer_than_loading_and_mapping(dataset, monkeypatch):
    mapping, call = [], DatasetMapper._transform_annotations

    def timed(*arguments):
        start = time.process_time()
        call(*arguments)
        mapping.append(time.process_time() - start)

    monkeypatch.setattr(DatasetMapper, "_transform_annotations", timed)
    folder = dataset()
    content = json.loads((folder / "a.json").read_text())
    image, annotation = content["images"][0], content["annotations"][0]
    content["images"] = [{**image, "id": number} for number in range(1, 2001)]
    content["annotations"] = [
        {**annotation, "id": number, "image_id": 1 + number % 2000, "bbox": [number / 999, 3, 9, 8]}
        for number in range(1, 14_001)
    ]
    (folder / "a.json").write_text(json.dumps(content))
    report = check_coco(folder / "a.json", None)
    start = time.process_time()
    load_training_set(config())
    loading = time.process_time() - start
    start = time.process_time()
    compared = compare_with_training(config(), replace(report.without(report.counts), name="user"))
    assert mapping
    assert time.process_time() - start - sum(mapping) < 4 * loading + 0.5
    assert compared.counts == {}


# Dicts registered from Python


@pytest.fixture
def python_dicts(dataset):
    """Register dicts without a JSON, whose annotations may be changed."""
    dataset(name="files")
    dicts = DatasetCatalog.get("files")
    DatasetCatalog.register("user", lambda: dicts)
    yield dicts
    DatasetCatalog.remove("user")
    MetadataCatalog.remove("user")


def test_valid_dicts_have_no_findings(python_dicts):
    assert check_datasets(config())[0].counts == {}


@pytest.mark.parametrize("mode", [None, BoxMode.XYXY_REL, BoxMode.XYWH_REL])
def test_a_box_mode_that_cannot_be_trained_is_an_error(python_dicts, mode):
    python_dicts[0]["annotations"][1]["bbox_mode"] = mode
    with pytest.raises(DataError, match=r"(?s)box-mode \(1\).*image 1"):
        check_datasets(config())


def test_an_object_of_dicts_that_the_mapper_drops_is_named_by_its_position(python_dicts):
    python_dicts[0]["annotations"][1]["bbox"] = [40.0, 2, 3, 4]
    (report,) = check_datasets(config())
    assert report.counts == {"object-lost": 1}
    assert report.findings[0].message.startswith("object 1 of image 1")


# Two training sets


@pytest.mark.parametrize("classes", [("dog", "cat"), ("cat", "Dog"), ("cat", "cow")])
def test_training_sets_with_other_classes_are_an_error(dataset, classes):
    dataset()
    dataset(name="other", classes=classes)
    with pytest.raises(DataError, match=r"(?s)other.*classes-differ.*those of 'user': cat, dog"):
        check_datasets(config(train=("user", "other")))
    (_, report) = check_datasets(config(test=("other",)))
    assert (report.num("error"), report.num("warning")) == (0, 1)


def test_training_sets_of_the_same_classes_are_fine(dataset):
    dataset()
    dataset(name="other")
    assert not any(r.counts for r in check_datasets(config(train=("user", "other"))))


# Keypoints and proposals


@pytest.fixture
def named_keypoints(dataset):
    def named_keypoints(**changes):
        two = [5, 5, 2, 9, 9, 2]
        dataset(
            {number: {"keypoints": two, **changes.get(f"a{number}", {})} for number in range(5)}
        )
        metadata = MetadataCatalog.get("user")
        metadata.keypoint_names, metadata.keypoint_flip_map = ["left", "right"], []

    return named_keypoints


def test_keypoints_as_the_config_asks_are_fine(named_keypoints):
    named_keypoints()
    assert check_datasets(config(*KEYPOINTS))[0].counts == {}


@pytest.mark.parametrize("keypoints", [[], [5, 5, 2], [5, 5, 2] * 3])
def test_an_object_without_the_keypoints_of_the_config_is_an_error(named_keypoints, keypoints):
    named_keypoints(a3={"keypoints": keypoints})
    with pytest.raises(DataError, match=r"(?s)keypoints-missing \(1\).*annotation 3 of image 2"):
        check_datasets(config(*KEYPOINTS))


def test_keypoints_without_names_or_of_another_number_are_an_error(dataset, named_keypoints):
    named_keypoints()
    with pytest.raises(DataError, match=r"NUM_KEYPOINTS is 17, dataset 'user' has 2"):
        check_datasets(config("MODEL.KEYPOINT_ON", True))
    dataset(name="nameless")
    with pytest.raises(DataError, match="no keypoint_names and no keypoint_flip_map"):
        check_datasets(config(*KEYPOINTS, train=("nameless",)))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "1 datasets, DATASETS.PROPOSAL_FILES_TRAIN 0 files"),
        (("a.pkl", "b.pkl"), "2 files"),
        (("nowhere.pkl",), r"file not found: nowhere\.pkl"),
    ],
)
def test_each_training_set_requires_a_file_of_proposals(dataset, files, said):
    dataset()
    cfg = config("MODEL.LOAD_PROPOSALS", True, "DATASETS.PROPOSAL_FILES_TRAIN", files)
    with pytest.raises(DataError, match=said):
        check_datasets(cfg)


# Evaluation


@pytest.mark.parametrize("area", [-1, 1e11, -1e-9])
def test_a_class_that_the_evaluation_ignores_is_an_error(dataset, area):
    dataset({1: {"area": area}, 2: {"area": area}})
    with pytest.raises(DataError, match=r"cat: 2 objects in the file, 0 evaluated"):
        check_datasets(config(train=(), test=("user",)))
    assert check_datasets(config())[0].num("warning") == 2


def test_a_part_that_the_evaluation_ignores_is_a_warning(dataset):
    dataset({1: {"area": -1}})
    (report,) = check_datasets(config(train=(), test=("user",)))
    assert report.counts == {"area-ignored": 1}


def test_crowds_are_not_missed_in_the_evaluation(dataset):
    dataset({1: {"iscrowd": 1}, 4: {"iscrowd": 1}})
    assert check_datasets(config(train=(), test=("user",)))[0].counts == {}


def test_an_object_that_pycocotools_ignores_for_another_reason_is_named(dataset, monkeypatch):
    dataset()
    evaluate = as_trained.__package__ + ".as_evaluated.COCOeval.evaluateImg"

    def ignore_the_first(self, image_id, category_id, *_):
        truths = self._gts[image_id, category_id]
        ids = [x["id"] for x in truths]
        return {"gtIds": ids, "gtIgnore": [number == 1 for number in ids]}

    monkeypatch.setattr(evaluate, ignore_the_first)
    (report,) = check_datasets(config(train=(), test=("user",)))
    assert [(f.rule, f.annotation_id) for f in report.findings] == [("object-not-evaluated", 1)]
