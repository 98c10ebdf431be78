"""Tests of the checks of arms before a run starts."""

import json

import pytest
from detectron2.data import DatasetCatalog

from focal_plugin.compare.plan import arm_check
from focal_plugin.compare.plan.arm_check import ArmCheck
from focal_plugin.compare.plan.spec import read_plan
from focal_plugin.data import DataError
from focal_plugin.engine import trial

from ...conftest import ROOT

SHAPES = ROOT / "configs" / "Shapes-Detection"
LOSS, MINER = "MODEL.FOCAL.CLS_LOSS.NAME", "MODEL.FOCAL.MINING.NAME"
GOOD = ("good", [], None)


def refused(folder, arms, check=None, base="retinanet_small", **more):
    spec = folder / "spec.yaml"
    spec.write_text(json.dumps({"base": f"{SHAPES}/{base}.yaml", "arms": arms, "seeds": 1, **more}))
    with pytest.raises(ValueError, match=r"spec\.yaml") as error:
        read_plan(spec, check or ArmCheck())
    return str(error.value)


@pytest.fixture
def without_data(monkeypatch):
    monkeypatch.setattr(arm_check, "check_datasets", lambda cfg, **flags: [])


RETINANET = {
    "loss": ([LOSS, "FocalLoss"], "MODEL.FOCAL.CLS_LOSS.NAME = 'FocalLoss' is not"),
    "gamma": (
        ["MODEL.RETINANET.FOCAL_LOSS_GAMMA", -1.0],
        "FOCAL_LOSS_GAMMA must be >= 0, got -1.0",
    ),
    "miner": ([MINER, "OHEM"], "MODEL.FOCAL.MINING.NAME = 'OHEM' is not one of OHEMMiner"),
    "keep": ([MINER, "TopKMiner", "MODEL.FOCAL.MINING.NUM_KEEP", 0], "NUM_KEEP must be"),
    "box loss": (
        ["MODEL.FOCAL.BOX_LOSS.NAME", "GIoU"],
        "MODEL.FOCAL.BOX_LOSS.NAME = 'GIoU' is not",
    ),
    "head": (["MODEL.FOCAL.HEAD.NAME", "Head"], "MODEL.FOCAL.HEAD.NAME = 'Head'"),
    "normalizer": (["MODEL.FOCAL.NORMALIZER.NAME", "mean"], "NORMALIZER"),
    "labels": (["MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY", "yes"], "LOW_QUALITY"),
    "thresholds": (["MODEL.RETINANET.IOU_THRESHOLDS", [0.5, 0.4]], "IOU_THRESHOLDS must rise"),
    "features": (["MODEL.RETINANET.IN_FEATURES", ["p3", "p9"]], "p9"),
    "scheduler": (["SOLVER.LR_SCHEDULER_NAME", "Cosine"], "Unknown LR scheduler: Cosine"),
    "policy": (["MODEL.FOCAL.NONFINITE.POLICY", "ignore"], "NONFINITE.POLICY must be one of"),
    "precision": (["MODEL.FOCAL.AMP.PRECISION", "half"], "AMP.PRECISION must be one of"),
    "cache": (["MODEL.FOCAL.DATA.IMAGE_CACHE_MIB", -1], "IMAGE_CACHE_MIB must be"),
    "sampler": (["DATALOADER.SAMPLER_TRAIN", "Random"], "DATALOADER.SAMPLER_TRAIN must be one of"),
    "batch": (["SOLVER.IMS_PER_BATCH", 0], "SOLVER.IMS_PER_BATCH must be"),
    "weights": (["MODEL.WEIGHTS", "none.pth"], "MODEL.WEIGHTS: there is no file none.pth"),
    "long": (["MODEL.WEIGHTS", "x" * 100_000], "File name too long"),
    "key": (["MODEL.RETINANET.GAMMA", 2], "Non-existent config key: MODEL.RETINANET.GAMMA"),
    "other family": ({"arm": "rpn_ohem"}, "is for faster_rcnn"),
    "other test set": (
        ["DATASETS.TEST", "('focal_shapes_train',)"],
        "an AP on other images cannot",
    ),
}
FASTER_RCNN = {
    "rpn loss": (["MODEL.FOCAL.RPN.CLS_LOSS.NAME", "BCE"], "MODEL.FOCAL.RPN.CLS_LOSS.NAME = 'BCE'"),
    "style": (["MODEL.FOCAL.RPN.STYLE", "keras"], "STYLE"),
    "roi heads": (["MODEL.ROI_HEADS.NAME", "Heads"], "Heads"),
    "crowd": (["MODEL.FOCAL.RPN.CROWD", "drop"], "CROWD"),
    "pooler": (["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "Pool"], "Pool"),
}


@pytest.mark.parametrize(
    ("base", "faults"), [("retinanet_small", RETINANET), ("faster_rcnn_small", FASTER_RCNN)]
)
def test_one_reading_names_every_faulty_arm_in_a_line(base, faults, tmp_path, without_data):
    arms = {"good": [], **{name: arm for name, (arm, _) in faults.items()}}
    first, *lines = refused(tmp_path, arms, base=base).split("\n")
    assert f"{len(faults)} of {len(faults) + 1} arms cannot run:" in first
    assert len(lines) == len(faults)
    for line, (name, (_, message)) in zip(lines, faults.items(), strict=True):
        assert line.startswith(f"  arm {name!r}: "), line
        assert message in line
        assert len(line) < 1100


def test_arms_with_the_same_fault_share_a_line(tmp_path, without_data):
    fault = [LOSS, "Focal"]
    arms = {"good": [], "x": fault, "y": [*fault, "SOLVER.BASE_LR", 0.1]}
    assert "spec.yaml: arms 'x', 'y': MODEL.FOCAL.CLS_LOSS.NAME = 'Focal'" in refused(
        tmp_path, arms
    )
    assert "all 2 arms: opts: Non-existent" in refused(
        tmp_path, {"x": [], "y": {"arm": "ce"}}, opts=["SOLVER.LR", 1]
    )


def test_faults_of_form_are_named_for_every_arm(tmp_path):
    arms = {"good": [], "x": {"arm": "ohme"}, "y": ["SEED", 1], "z": 3}
    message = refused(tmp_path, arms)
    assert "3 of 4 arms cannot run" in message
    for text in ("'x': no arm is named 'ohme'; did you", "'y': opts: SEED is not", "'z': must be"):
        assert f"  arm {text}" in message


def test_a_component_that_needs_values_is_built_on_the_cpu(monkeypatch):
    devices = []

    def build(cfg):
        devices.append(cfg.MODEL.DEVICE)
        if cfg.MODEL.DEVICE == "meta":
            raise NotImplementedError("no values on meta")
        return "model"

    monkeypatch.setattr(trial.Trainer, "build_model", build)
    cfg = trial.CfgNode({"MODEL": {"DEVICE": "cuda"}})
    assert trial.build_without_memory(cfg) == "model"
    assert devices == ["meta", "cpu"]


def test_the_data_are_read_once_for_all_arms_that_need_the_same_of_them(tmp_path, monkeypatch):
    reads = []

    def check(cfg, *, allow_outside_root):
        assert not allow_outside_root
        copy = cfg.clone()
        copy.DATASETS.TRAIN = ()
        reads.append((copy.MODEL.MASK_ON, cfg.DATASETS.TEST))
        if cfg.MODEL.MASK_ON:
            raise DataError("no masks")

    monkeypatch.setattr(arm_check, "check_datasets", check)
    monkeypatch.setattr(arm_check, "check_arm", lambda cfg, here: None)
    mask = ["MODEL.MASK_ON", True]
    arms = {"a": [], "b": {"arm": "ce"}, "c": mask, "d": [*mask, "SOLVER.BASE_LR", 0.3]}
    message = refused(tmp_path, arms)
    assert "spec.yaml: arms 'c', 'd': no masks" in message
    assert [mask for mask, _ in reads] == [False, True]


def test_the_flags_of_the_trainer_are_those_of_the_check(tmp_path, monkeypatch):
    allowed = []
    monkeypatch.setattr(arm_check, "check_arm", lambda cfg, here: None)
    monkeypatch.setattr(
        arm_check,
        "check_datasets",
        lambda cfg, **flags: allowed.append(flags["allow_outside_root"]),
    )
    for flags in ([], ["trust-pickle"], ["allow-outside-root"]):
        spec = {"base": f"{SHAPES}/retinanet_small.yaml", "arms": {"a": []}, "seeds": 1}
        file = tmp_path / "spec.yaml"
        file.write_text(json.dumps({**spec, "trainer_flags": flags}))
        read_plan(file, ArmCheck())
    assert allowed == [False, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [0, 0, -5, 5]}, "bbox"),
        ({"category_id": 9}, "category"),
        ({"image_id": 7}, "image"),
    ],
)
def test_errors_in_the_data_are_found_before_anything_runs(change, message, tmp_path):
    (tmp_path / "images").mkdir()
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25}
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "annotations": [{**annotation, "iscrowd": 0, **change}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(coco))
    opts = ["DATASETS.TRAIN", ["mine"], "DATASETS.TEST", ["mine"], "MODEL.RETINANET.NUM_CLASSES", 1]
    arms = {"FL": [], "CE": {"arm": "ce"}}
    text = refused(tmp_path, arms, opts=opts, datasets={"mine": "a.json:images"})
    assert "all 2 arms: " in text
    assert message in text
    assert "mine" not in DatasetCatalog.list()
