"""Every file in configs/: it loads with the safe loader, builds, and says what its name says."""

import pytest
import yaml
from detectron2 import model_zoo
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import build_model

from focal_plugin import get_cfg
from focal_plugin.compare.spec import load_spec
from focal_plugin.data import check_datasets

from .conftest import ROOT

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
COMPARISONS = [file for file in CONFIGS if file.parent.name == "comparisons"]
MODELS = [file for file in CONFIGS if file not in COMPARISONS]


def name_of(file):
    return str(file.relative_to(ROOT / "configs"))


def load(file):
    cfg = get_cfg()
    cfg.merge_from_file(str(file), allow_unsafe=False)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def differences(cfg, other):
    """Full keys in which two configs differ."""
    found = []
    for key, value in cfg.items():
        if isinstance(value, dict):
            found += [f"{key}.{name}" for name in differences(value, other[key])]
        elif value != other[key]:
            found.append(key)
    return found


@pytest.mark.parametrize("file", CONFIGS, ids=name_of)
def test_holds_no_yaml_tag_and_no_url(file):
    assert "!!" not in file.read_text()
    yaml.safe_load(file.read_text())


@pytest.mark.parametrize("file", MODELS, ids=name_of)
def test_builds_and_fits_its_data(file):
    cfg = load(file)
    build_model(cfg)
    check_datasets(cfg)


@pytest.mark.parametrize("file", COMPARISONS, ids=name_of)
def test_is_a_valid_comparison(file, tmp_path):
    assert load_spec(file, tmp_path)


def test_base_equals_detectron2s_except_for_the_architecture():
    stock = get_detectron2_cfg()
    stock.merge_from_file(model_zoo.get_config_file("Base-RetinaNet.yaml"), allow_unsafe=True)
    ours = load(ROOT / "configs" / "Base-FocalRetinaNet.yaml")
    del ours.MODEL["FOCAL"]
    different = differences(ours, stock)
    assert set(different) <= {"MODEL.META_ARCHITECTURE", "MODEL.DEVICE"}
    assert "MODEL.META_ARCHITECTURE" in different


def test_the_1x_focal_loss_config_is_the_model_zoos():
    stock = get_detectron2_cfg()
    stock.merge_from_file(
        model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml"), allow_unsafe=True
    )
    ours = load(ROOT / "configs/COCO-Detection/retinanet_R_50_FPN_1x_fl.yaml")
    del ours.MODEL["FOCAL"]
    allowed = {"MODEL.META_ARCHITECTURE", "MODEL.DEVICE", "OUTPUT_DIR"}
    assert set(differences(ours, stock)) <= allowed


@pytest.mark.parametrize("folder", ["COCO-Detection", "Shapes-Detection"])
def test_arms_differ_in_their_loss_and_nothing_else(folder):
    arms = [f for f in MODELS if f.parent.name == folder and not f.name.startswith("Base")]
    focal = next(load(file) for file in arms if file.name.endswith("_fl.yaml"))
    assert len(arms) >= 4
    for file in arms:
        loss_keys = {"MODEL.FOCAL.CLS_LOSS.NAME", "MODEL.RETINANET.FOCAL_LOSS_ALPHA"}
        assert set(differences(load(file), focal)) <= loss_keys | {"OUTPUT_DIR"}


@pytest.mark.parametrize(
    ("arm", "name", "alpha"),
    [
        ("ce", "SigmoidCrossEntropyLoss", -1.0),
        ("alpha_ce", "SigmoidCrossEntropyLoss", 0.75),
        ("fl", "SigmoidFocalLoss", 0.25),
        ("fl_star", "SigmoidFocalStarLoss", 0.25),
    ],
)
@pytest.mark.parametrize(
    "stem", ["COCO-Detection/retinanet_R_50_FPN_1x", "Shapes-Detection/retinanet_small"]
)
def test_an_arm_has_the_papers_best_numbers(stem, arm, name, alpha):
    cfg = load(ROOT / "configs" / f"{stem}_{arm}.yaml")
    assert name == cfg.MODEL.FOCAL.CLS_LOSS.NAME
    assert alpha == cfg.MODEL.RETINANET.FOCAL_LOSS_ALPHA
    assert cfg.MODEL.RETINANET.FOCAL_LOSS_GAMMA == 2.0
    assert cfg.MODEL.FOCAL.CLS_LOSS.BETA == 1.0
    assert cfg.MODEL.RETINANET.PRIOR_PROB == 0.01
