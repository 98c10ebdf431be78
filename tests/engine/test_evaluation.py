"""hotcoco in Detectron2's evaluator: equal to pycocotools, otherwise not used."""

import contextlib
import io
import json
import logging
import sys
from collections import Counter
from importlib.metadata import version

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

import focal_plugin_doctor as doctor
from focal_plugin import get_cfg
from focal_plugin.engine import Trainer, evaluation
from focal_plugin.engine.evaluation import (
    HotCOCOEvaluator,
    NumberedCOCOEvaluator,
    build_coco_evaluator,
    curves,
    evaluator_in_use,
    hotcoco_accepts,
)

from ..compare.analysis.detections.coco_cases import (
    pycocotools_evaluation,
    random_case,
)
from ..conftest import ROOT
from ..each import each
from ..test_configs import load

needs_hotcoco = pytest.mark.skipif(not doctor.has_hotcoco(), reason="hotcoco is not installed")


@pytest.fixture
def register(tmp_path):
    """Register a ground truth as dataset "cases"; its files are not part of the test."""

    def register(truth):
        file = tmp_path / "cases.json"
        file.write_text(json.dumps({"info": {}, **truth}))
        ids = sorted(category["id"] for category in truth["categories"])
        MetadataCatalog.get("cases").set(
            json_file=str(file),
            thing_classes=[f"class {id_}" for id_ in ids],
            thing_dataset_id_to_contiguous_id={id_: k for k, id_ in enumerate(ids)},
        )
        return {id_: k for k, id_ in enumerate(ids)}

    yield register
    MetadataCatalog.pop("cases", None)


class Log:
    """Logger that records its messages."""

    def __init__(self):
        self.messages = []

    def info(self, message):
        self.messages.append(message)

    warn = warning = info


class Evaluated:
    """Results of an evaluator, with its log, output and files."""

    def __init__(self, evaluator, truth, detections, classes, img_ids=None):
        evaluator._logger = self.log = Log()
        evaluator.reset()
        for image in truth["images"]:
            found = [entry for entry in detections if entry["image_id"] == image["id"]]
            output = {"instances": instances(found, classes)}
            evaluator.process([{"image_id": image["id"]}], [output])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            self.results = evaluator.evaluate(img_ids)
        self.printed = printed.getvalue()


def instances(entries, classes):
    found = Instances((200, 200))
    boxes = torch.tensor([entry["bbox"] for entry in entries]).view(-1, 4)
    found.pred_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
    found.scores = torch.tensor([entry["score"] for entry in entries])
    found.pred_classes = torch.tensor([classes[entry["category_id"]] for entry in entries]).long()
    if entries and "mask" in entries[0]:
        found.pred_masks = torch.stack([entry["mask"] for entry in entries])
    return found


def both(truth, detections, register, tmp_path, img_ids=None):
    """Return the results of Detectron2's evaluator with pycocotools, and of ours."""
    classes = register(truth)
    (tmp_path / "ours").mkdir()
    stock = COCOEvaluator("cases", output_dir=str(tmp_path / "stock"), use_fast_impl=False)
    ours = HotCOCOEvaluator("cases", str(tmp_path / "ours"))
    return [Evaluated(one, truth, detections, classes, img_ids) for one in (stock, ours)]


def coco(truth):
    ground_truth = COCO()
    ground_truth.dataset = truth
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
    return ground_truth


def assert_same(results, expected):
    assert list(results) == list(expected)
    for task, metrics in expected.items():
        assert list(results[task]) == list(metrics)
        assert results[task] == pytest.approx(metrics, rel=0, abs=1e-10, nan_ok=True)


# The statistics


def sized(truth, area):
    return {**truth, "annotations": [{**x, "area": area(x)} for x in truth["annotations"]]}


def crowded(seed):
    """Return three images, each with over a hundred detections of one class, many with ties."""
    truth, _ = random_case(seed, images=3)
    generator = np.random.default_rng(seed)
    boxes = [*generator.uniform(0, 60, (400, 2)).T, *generator.choice([30, 34, 60], (2, 400))]
    images = [image["id"] for image in truth["images"]]
    return truth, [
        {
            "image_id": int(generator.choice(images)),
            "category_id": 7,
            "bbox": [float(x) for x in box],
            "score": round(float(generator.random()), 1),
        }
        for box in np.array(boxes).T
    ]


def cases():
    for seed in range(8):
        yield f"tied scores {seed}", *random_case(seed)
        yield f"untied scores {seed}", *random_case(seed, tied_scores=False, false_alarms=20)
    truth, detections = random_case(11, images=30)
    annotations = truth["annotations"]
    yield "one score", truth, [{**x, "score": 0.5} for x in detections]
    yield "nothing to find", {**truth, "annotations": []}, detections
    crowds = [{**x, "iscrowd": 1} for x in annotations]
    yield "only crowds", {**truth, "annotations": crowds}, detections
    ignored = [{**x, "ignore": x["id"] % 2} for x in annotations]
    yield "flags to ignore, which COCO does not know", {**truth, "annotations": ignored}, detections
    yield "sizes at the limits", sized(truth, lambda x: [1024, 9216][x["id"] % 2]), detections
    yield "no small object", sized(truth, lambda x: 9217.0), detections
    boxes = [{**x, "bbox": [*x["bbox"][:2], 32, 32]} for x in detections]
    yield "detections of 32 by 32", truth, boxes
    one = truth["images"][0]["id"]
    yield "detections on one image", truth, [x for x in detections if x["image_id"] == one]
    yield "more than a hundred of a class on an image", *crowded(5)


CASES = [pytest.param(*case, id=name) for name, *case in cases()]


@needs_hotcoco
@pytest.mark.parametrize(("truth", "detections"), CASES)
def test_the_twelve_statistics_and_all_curves_equal_pycocotools(truth, detections):
    expected = pycocotools_evaluation(truth, detections)
    found = COCOeval(iouType="bbox")
    found.eval = curves(coco(truth), detections)
    for curve in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(found.eval[curve], expected.eval[curve])
    with contextlib.redirect_stdout(io.StringIO()):
        found.summarize()
    np.testing.assert_array_equal(found.stats, expected.stats)


def test_the_cases_have_the_intended_properties():
    truth, detections = random_case(11, images=30)
    images = {x["id"] for x in truth["images"]}
    with_objects = {x["image_id"] for x in truth["annotations"]}
    with_detections = {x["image_id"] for x in detections}
    assert with_detections - with_objects
    assert images - with_detections
    assert any(x["iscrowd"] for x in truth["annotations"])
    assert len({x["score"] for x in detections}) < len(detections) / 2
    assert (pycocotools_evaluation(truth, detections).stats > 0).all()
    _, many = crowded(5)
    assert min(Counter(x["image_id"] for x in many).values()) > 100


# In Detectron2's evaluator


TABLES = ("Preparing results", "Evaluation results for bbox", "Per-category bbox AP")


@needs_hotcoco
@pytest.mark.parametrize("seed", [1, 2])
def test_results_files_and_log_equal_those_of_the_stock_evaluator(register, tmp_path, seed):
    stock, ours = both(*random_case(seed), register, tmp_path)
    assert_same(ours.results, stock.results)
    assert {"AP", "AP50", "AP-class 2", "AP-class 41"} <= set(ours.results["bbox"])
    assert np.isnan(ours.results["bbox"]["AP-class 41"])
    results = [tmp_path / who / "coco_instances_results.json" for who in ("stock", "ours")]
    assert results[0].read_text() == results[1].read_text()
    saved = [torch.load(tmp_path / who / "instances_predictions.pth") for who in ("stock", "ours")]
    assert saved[0] == saved[1]
    tables = [[x for x in run.log.messages if x.startswith(TABLES)] for run in (stock, ours)]
    assert tables[0] == tables[1]
    assert len(tables[0]) == len(TABLES)
    assert sum(evaluator_in_use() in line for line in ours.log.messages) == 1
    printed = [line for line in stock.printed.splitlines() if line.startswith(" Average")]
    assert len(printed) == 12
    assert set(printed) <= set(ours.printed.splitlines())


@needs_hotcoco
def test_hotcoco_computes_the_results(register, tmp_path, monkeypatch):
    import hotcoco

    runs, original = [], hotcoco.COCOeval
    monkeypatch.setattr(hotcoco, "COCOeval", lambda *args: runs.append(args) or original(*args))
    monkeypatch.setattr("pycocotools.cocoeval.COCOeval.accumulate", None)  # must not be called
    classes = register(random_case(1)[0])
    ours = HotCOCOEvaluator("cases", str(tmp_path))
    Evaluated(ours, *random_case(1), classes)
    assert len(runs) == 1


@needs_hotcoco
def test_only_the_chosen_images_are_evaluated(register, tmp_path):
    truth, detections = random_case(4)
    images = [image["id"] for image in truth["images"]]
    stock, ours = both(truth, detections, register, tmp_path, img_ids=images[:5])
    assert_same(ours.results, stock.results)
    (tmp_path / "again").mkdir()
    everything = Evaluated(
        HotCOCOEvaluator("cases", str(tmp_path / "again")), truth, detections, register(truth)
    )
    assert everything.results["bbox"]["AP"] != ours.results["bbox"]["AP"]


@needs_hotcoco
def test_no_detection_at_all_is_nan_as_in_the_stock_evaluator(register, tmp_path):
    truth, _ = random_case(1)
    stock, ours = both(truth, [], register, tmp_path)
    assert_same(ours.results, stock.results)
    assert np.isnan(ours.results["bbox"]["AP"])
    assert "No predictions from the model!" in ours.log.messages


@needs_hotcoco
def test_images_without_annotations_have_detections_and_no_results(register, tmp_path):
    truth, detections = random_case(1)
    del truth["annotations"]
    stock, ours = both(truth, detections, register, tmp_path)
    assert ours.results == stock.results == {}
    assert len(json.loads((tmp_path / "ours/coco_instances_results.json").read_text()))


@needs_hotcoco
def test_masks_are_evaluated_by_the_stock_evaluator(register, tmp_path):
    truth, _ = random_case(3, images=4)
    detections = []
    for image in truth["images"]:
        image.update(height=200, width=200)
    for annotation in truth["annotations"]:
        x, y, width, height = (round(value) for value in annotation["bbox"])
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        annotation.update(segmentation=[corners], iscrowd=0, area=float(width * height))
        mask = torch.zeros(200, 200, dtype=torch.bool)
        mask[y : y + height, x : x + width - 4] = True
        found = {name: annotation[name] for name in ("image_id", "category_id", "bbox")}
        detections.append({**found, "score": 0.5, "mask": mask})
    stock, ours = both(truth, detections, register, tmp_path)
    assert list(ours.results) == ["bbox", "segm"]
    assert 0 < ours.results["segm"]["AP"] < ours.results["bbox"]["AP"]
    assert_same(ours.results, stock.results)


# Data on which the results would differ


def changed(truth, detections, key, value):
    """Change the first annotation; with "images"/"detections" change the first of those."""
    where, _, name = key.rpartition(".")
    entries = {"": truth["annotations"], "images": truth["images"], "detections": detections}
    entries[where][0] = {**entries[where][0], name: value}
    return truth, detections


@pytest.mark.parametrize(
    ("key", "value", "agrees"),
    [
        ("id", -1, False),
        ("id", "7", False),
        ("id", 1.5, False),
        ("id", 0, True),
        ("images.id", "a.png", False),
        ("images.id", 1.0, False),
        ("images.id", 2**64 - 1, True),
        ("images.id", 2**64, False),
        ("images.id", 10**400, False),
        ("bbox", [0, 0, 1e39, 3], True),
        ("bbox", [0, 0, 10**400, 3], False),
        ("area", 10**400, False),
        ("area", None, False),
        ("area", "30", False),
        ("area", float("nan"), False),
        ("area", 30, True),
        ("bbox", [0, 0, float("nan"), 3], False),
        ("bbox", [0, 0, 3, 3], True),
        ("iscrowd", "0", False),
        ("iscrowd", True, True),
        ("detections.score", float("nan"), False),
        ("detections.bbox", [0.0, 0.0, float("nan"), 1.0], False),
        ("detections.bbox", [0.0, 0.0, -1.0, 1.0], True),
    ],
    ids=str,
)
def test_hotcoco_is_used_only_on_supported_data(key, value, agrees):
    truth, detections = changed(*random_case(1), key, value)
    assert hotcoco_accepts(coco(truth), detections) == agrees


IMAGE_IDS = {
    "names": lambda i: f"{i:03}.png",
    "negative": lambda i: -i,
    "of more than 64 bits": lambda i: 2**64 + i,
    "1,300 bits": lambda i: 10**400 + i,
}


@needs_hotcoco
@pytest.mark.parametrize("change", IMAGE_IDS)
def test_on_other_data_the_stock_evaluator_is_used_and_logged(
    register, tmp_path, monkeypatch, change
):
    truth, detections = random_case(2)
    change = IMAGE_IDS[change]
    for entry in truth["images"]:
        entry["id"] = change(entry["id"])
    for entry in [*truth["annotations"], *detections]:
        entry["image_id"] = change(entry["image_id"])
    log = Log()
    monkeypatch.setattr(evaluation, "logger", log)
    stock, ours = both(truth, detections, register, tmp_path)
    assert stock.results["bbox"]["AP"] > 0
    assert_same(ours.results, stock.results)
    assert len(log.messages) == 1
    assert log.messages[0].startswith("cases: hotcoco is not used")


ANNOTATION_IDS = {
    "pairs share one": lambda i: i // 2 + 1,
    "text": lambda i: f"a{i}",
    "from 0": lambda i: i - 1,
    "negative": lambda i: -i,
    "floats": float,
    "64 bits": lambda i: 2**64 - i,
    "1,300 bits": lambda i: 10**400 + i,
}


@pytest.mark.parametrize("evaluator", [HotCOCOEvaluator, NumberedCOCOEvaluator])
@pytest.mark.parametrize("change", ANNOTATION_IDS)
def test_the_result_does_not_depend_on_the_ids_of_annotations(
    register, tmp_path, evaluator, change
):
    if evaluator is HotCOCOEvaluator and not doctor.has_hotcoco():
        pytest.skip("hotcoco is not installed")
    truth, detections = random_case(3)
    results = []
    for of in (lambda i: i, ANNOTATION_IDS[change]):
        annotations = [{**x, "id": of(x["id"])} for x in truth["annotations"]]
        changed_truth = {**truth, "annotations": annotations}
        classes = register(changed_truth)
        run = Evaluated(evaluator("cases", str(tmp_path)), changed_truth, detections, classes)
        results.append(run.results)
    assert results[0]["bbox"]["AP"] > 0
    assert_same(results[1], results[0])


# Choice of the implementation


@needs_hotcoco
def test_the_trainer_uses_what_is_installed(tiny_shapes, tmp_path):
    evaluator = Trainer.build_evaluator(get_cfg(), "tiny_shapes", str(tmp_path))
    assert type(evaluator) is HotCOCOEvaluator
    assert evaluator._use_fast_impl == doctor.has_compiled_ops()
    assert evaluator_in_use().startswith("hotcoco 1.")


@pytest.mark.parametrize("compiled", sorted({doctor.has_compiled_ops(), False}))
@pytest.mark.parametrize("release", [None, "1.2.9"], ids=["absent", "too_old"])
def test_without_it_the_evaluator_is_the_stock_one(
    tiny_shapes, tmp_path, monkeypatch, compiled, release
):
    installed = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: release if name == "hotcoco" else installed(name)
    )
    monkeypatch.setattr(evaluation, "has_compiled_ops", lambda: compiled)
    evaluator = build_coco_evaluator("tiny_shapes", str(tmp_path))
    assert type(evaluator) is NumberedCOCOEvaluator
    assert evaluator._use_fast_impl is compiled
    assert evaluator_in_use() == ("detectron2, compiled" if compiled else "pycocotools")


@pytest.mark.parametrize("installed", [pytest.param(True, marks=needs_hotcoco), False])
def test_the_implementation_is_logged_once(tiny_shapes, tmp_path, monkeypatch, caplog, installed):
    # Detectron2 records logged messages in a global counter.
    monkeypatch.setattr("detectron2.utils.logger._LOG_COUNTER", Counter())
    if not installed:
        monkeypatch.setitem(sys.modules, "hotcoco", None)  # cannot be imported
    with caplog.at_level(logging.INFO, evaluation.logger.name):
        kinds = {type(build_coco_evaluator("tiny_shapes", str(tmp_path))) for _ in range(2)}
    said = [x.getMessage() for x in caplog.records if "Box AP is " in x.getMessage()]
    compiled = "detectron2, compiled" if doctor.has_compiled_ops() else "pycocotools"
    expected = f"hotcoco {version('hotcoco')}" if installed else compiled
    assert said == [f"Box AP is computed by {expected}"]
    assert kinds == {HotCOCOEvaluator if installed else NumberedCOCOEvaluator}


class FindsHalf(nn.Module):
    """Detector that finds every other object, slightly shifted to the right."""

    def __init__(self, truth):
        super().__init__()
        ids = sorted(category["id"] for category in truth["categories"])
        self.classes = {id_: k for k, id_ in enumerate(ids)}
        self.found = [
            {**x, "bbox": [x["bbox"][0] + 2, *x["bbox"][1:]], "score": 1 / x["id"]}
            for x in truth["annotations"][::2]
        ]

    def forward(self, batch):
        of_images = [
            [entry for entry in self.found if entry["image_id"] == image["image_id"]]
            for image in batch
        ]
        return [{"instances": instances(found, self.classes)} for found in of_images]


def test_the_trainer_evaluates_as_pycocotools_does(tiny_shapes, tmp_path):
    cfg = load(ROOT / "configs/quick_schedules/retinanet_small_instant_test.yaml")
    cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = ("tiny_shapes",), 0
    cfg.OUTPUT_DIR = str(tmp_path)
    truth = json.loads((tiny_shapes / "annotations.json").read_text())
    results = Trainer.test(cfg, FindsHalf(truth))["bbox"]
    detections = json.loads((tmp_path / "inference/coco_instances_results.json").read_text())
    expected = pycocotools_evaluation(truth, detections).stats * 100
    assert 0 < expected[0] < expected[1] < 100
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    for name, value in zip(names, expected[:6], strict=True):
        assert results[name] == pytest.approx(value if value >= 0 else np.nan, nan_ok=True)
    assert {f"AP-{category['name']}" for category in truth["categories"]} <= set(results)


def test_each_of_two_test_sets_has_its_own_folder_and_the_first_is_the_result(
    tiny_shapes, tmp_path
):
    truth = json.loads((tiny_shapes / "annotations.json").read_text())
    half = {**truth, "annotations": truth["annotations"][: len(truth["annotations"]) // 2]}
    (tmp_path / "half.json").write_text(json.dumps(half))
    other = "half/../of it"  # any text is a legal name
    register_coco_instances(other, {}, str(tmp_path / "half.json"), str(tiny_shapes / "images"))
    cfg = load(ROOT / "configs/quick_schedules/retinanet_small_instant_test.yaml")
    cfg.DATALOADER.NUM_WORKERS, cfg.OUTPUT_DIR = 0, str(tmp_path / "out")
    try:
        cfg.DATASETS.TEST = ("tiny_shapes", other)
        results = Trainer.test(cfg, FindsHalf(truth))
        cfg.DATASETS.TEST = (other,)
        alone = Trainer.test(cfg, FindsHalf(truth))
    finally:
        DatasetCatalog.remove(other)
        MetadataCatalog.remove(other)
    assert list(results) == ["bbox", "tiny_shapes", other]
    assert results["bbox"] == pytest.approx(results["tiny_shapes"]["bbox"], nan_ok=True)
    assert results[other]["bbox"] == pytest.approx(alone["bbox"], nan_ok=True)
    assert results[other]["bbox"]["AP"] != results["bbox"]["AP"]
    files = sorted(tmp_path.glob("out/**/coco_instances_results.json"))
    folders = [str(file.parent.relative_to(tmp_path / "out")) for file in files]
    assert folders == ["inference", "inference/half%2F..%2Fof%20it", "inference/tiny_shapes"]


@each("sigma, expected", [(0.001, 0.0), (0.02, 30.0), (0.03, 70.0), (1.0, 100.0)])
def test_the_sigmas_of_the_config_decide_which_keypoints_match(register, tmp_path, sigma, expected):
    """Similarity of points 4 pixels off, on an area of 10^4: exp(-2e-4 / sigma^2)."""
    points = [20.0, 20, 2, 60, 20, 2, 40, 70, 2]
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 100, 100], "iscrowd": 0}
    truth = {
        "images": [{"id": 1, "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{**entry, "area": 10000.0, "keypoints": points, "num_keypoints": 3}],
    }
    classes = register(truth)
    cfg = get_cfg()
    cfg.merge_from_list(["TEST.KEYPOINT_OKS_SIGMAS", [sigma] * 3, "OUTPUT_DIR", str(tmp_path)])
    evaluator = Trainer.build_evaluator(cfg, "cases")
    found = instances([{**entry, "score": 0.9}], classes)
    found.pred_keypoints = torch.tensor(points).view(1, 3, 3) + torch.tensor([4.5, 0.5, 0])
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    assert evaluator.evaluate()["keypoints"]["AP"] == pytest.approx(expected, abs=0.1)
