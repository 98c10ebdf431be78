"""Every file in configs/: it loads with the safe loader, builds, and says what its name says."""

import itertools
import re

import pytest
import yaml
from detectron2 import model_zoo
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import build_model

from focal_plugin import arms
from focal_plugin.compare.plan.spec import load_spec
from focal_plugin.data import check_classes
from focal_plugin.losses import BOX_LOSS_REGISTRY, CLS_LOSS_REGISTRY
from focal_plugin.losses.build import STOCK_BOX_LOSSES
from focal_plugin.mining import MINER_REGISTRY
from focal_plugin.modeling.prior import without_automatic_priors

from .cached_configs import COCO, coco_arms, files_read_once, read_arm, read_cfg, shapes_arms
from .conftest import ROOT
from .each import each
from .registrations import DENSE_CLS_LOSSES
from .uninitialized import uninitialized

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
COMPARISONS = [file for file in CONFIGS if file.parent.name == "comparisons"]
FRAGMENTS = [file for file in CONFIGS if file.parent.parent.name == "arms"]
MODELS = [file for file in CONFIGS if file not in (*COMPARISONS, *FRAGMENTS)]

CLS_LOSS = "MODEL.FOCAL.CLS_LOSS.NAME"
FAMILIES = tuple(arms.FAMILIES)
ARMS = [(family, name) for family in FAMILIES for name in arms.names(family)]

# Arms that do not change the base for COCO, because it is so already.
COCO_HAS_IT = {"fl", "stock", "p6_res5", "head_no_norm", "fpn_no_norm", "norm_fixed"}
# Arms of a group of losses that differ in more than the loss's name and its own keys.
OTHER_KEYS = {
    "box_ghm": {"MODEL.FOCAL.BOX_LOSS.WEIGHT"},
    "fl_gamma_half": {"MODEL.RETINANET.FOCAL_LOSS_ALPHA", "MODEL.RETINANET.FOCAL_LOSS_GAMMA"},
    "fl_cls_x4": {"MODEL.FOCAL.CLS_LOSS.WEIGHT"},
    "fl_label_smoothing": {"MODEL.FOCAL.CLS_LOSS.LABEL_SMOOTHING"},
    "box_smooth_l1": {"MODEL.RETINANET.SMOOTH_L1_LOSS_BETA"},
}
# Arms that have no place in the comparison of all arms on the built-in dataset.
NOT_ON_SHAPES = {
    "retinanet/head_gn": "the small detector has it",
    "retinanet/fpn_gn": "the small detector has it",
    "retinanet/repeat_factor_fl": "repeat_factor is the same, because the base has the focal loss",
    "faster_rcnn/fpn_gn": "the small detector has it",
    "data/with_empty": "the base has it",
}


def name_of(file):
    return str(file.relative_to(ROOT / "configs"))


def load(file):
    return read_cfg(file, "MODEL.DEVICE", "cpu")


def differences(cfg, other):
    """Full keys in which two configs differ."""
    found = []
    for key, value in cfg.items():
        if isinstance(value, dict):
            found += [f"{key}.{name}" for name in differences(value, other[key])]
        elif value != other[key]:
            found.append(key)
    return found


def test_no_file_holds_a_yaml_tag():
    assert len(CONFIGS) > 100
    for file in CONFIGS:
        assert "!!" not in file.read_text(), file
        yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def shrink(cfg):
    """
    A ResNet-50 becomes a ResNet-18 with a narrow pyramid: what an arm changes sits on top of them,
    and a model of full size takes a second to allocate.
    """
    if "small" not in cfg.MODEL.BACKBONE.NAME:
        cfg.MODEL.RESNETS.DEPTH = 18
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.FPN.OUT_CHANNELS = 64


@pytest.mark.slow
@pytest.mark.parametrize("file", MODELS, ids=name_of)
def test_builds_and_fits_its_data(file):
    cfg = load(file)
    check_classes(cfg)
    shrink(cfg)
    with uninitialized():
        build_model(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), ARMS)
def test_an_arm_builds_on_the_base_for_coco(family, name):
    cfg = read_arm(coco_arms(family)[name], "MODEL.DEVICE", "cpu")
    check_classes(cfg)
    shrink(cfg)
    with uninitialized():
        build_model(without_automatic_priors(cfg))


@pytest.mark.parametrize(
    ("file", "blocks_of_res4"),
    [
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", 6),
        ("RetinaNet-Paper/table1d_fl.yaml", 23),
    ],
)
def test_a_backbone_builds_in_full_size(file, blocks_of_res4):
    with uninitialized():
        model = build_model(load(ROOT / "configs" / file))
    assert len(model.backbone.bottom_up.res4) == blocks_of_res4


@pytest.mark.slow
@pytest.mark.parametrize("file", COMPARISONS, ids=name_of)
def test_is_a_valid_comparison(file):
    with files_read_once():
        assert load_spec(file).runs


@pytest.mark.parametrize("file", COMPARISONS, ids=name_of)
def test_a_comparison_begins_with_what_it_asks_and_takes(file):
    comment = file.read_text().partition("\narms:")[0]
    assert comment.startswith("# ")
    assert re.search(r"two cores|Not run here", comment)


def components_of(cfg):
    """The registered names of an arm's losses and of its miner."""
    focal, retinanet = cfg.MODEL.FOCAL, cfg.MODEL.RETINANET
    box_loss = focal.BOX_LOSS.NAME or STOCK_BOX_LOSSES[retinanet.BBOX_REG_LOSS_TYPE]
    if box_loss == "SmoothL1Loss" and retinanet.SMOOTH_L1_LOSS_BETA == 0:
        box_loss = "L1Loss"
    return {focal.CLS_LOSS.NAME, box_loss, focal.MINING.NAME}


LOSSES = {**dict(CLS_LOSS_REGISTRY), **dict(BOX_LOSS_REGISTRY)}


def test_every_loss_and_every_miner_has_an_arm():
    configs = [read_arm(arm) for arm in coco_arms("retinanet").values()]
    found = set().union(*map(components_of, configs))
    box_heads = [read_arm(arm).MODEL.FOCAL.ROI_HEADS for arm in coco_arms("faster_rcnn").values()]
    of_box_heads = {roi.CLS_LOSS.NAME for roi in box_heads}
    for name in {**LOSSES, **dict(MINER_REGISTRY)}:
        is_dense = name not in CLS_LOSS_REGISTRY or name in DENSE_CLS_LOSSES
        family = "retinanet" if is_dense else "faster_rcnn"
        message = f"no arm is about {name}: add configs/arms/{family}/NAME.yaml"
        assert name in (found if is_dense else of_box_heads), message


def test_base_equals_detectron2s_except_for_the_architecture():
    stock = get_detectron2_cfg()
    stock.merge_from_file(model_zoo.get_config_file("Base-RetinaNet.yaml"), allow_unsafe=True)
    ours = load(ROOT / "configs" / "Base-FocalRetinaNet.yaml")
    del ours.MODEL["FOCAL"]
    different = differences(ours, stock)
    allowed = {"MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.DEVICE"}
    assert set(different) <= allowed
    assert "MODEL.META_ARCHITECTURE" in different


def test_the_1x_focal_loss_config_is_the_model_zoos():
    stock = get_detectron2_cfg()
    stock.merge_from_file(
        model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml"), allow_unsafe=True
    )
    ours = load(ROOT / "configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    del ours.MODEL["FOCAL"]
    allowed = {"MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.DEVICE", "OUTPUT_DIR"}
    assert set(differences(ours, stock)) <= allowed


def test_the_1x_stock_config_is_the_model_zoos_with_our_parts():
    stock = get_detectron2_cfg()
    stock.merge_from_file(
        model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"), allow_unsafe=True
    )
    ours = load(ROOT / "configs/COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    assert (ours.MODEL.FOCAL.FPN.TOP_BLOCK, ours.MODEL.FOCAL.FPN.TOP_LEVELS) == ("maxpool", 1)
    del ours.MODEL["FOCAL"]
    parts = ("BACKBONE", "PROPOSAL_GENERATOR", "ROI_HEADS", "ROI_BOX_HEAD")
    allowed = {"MODEL.DEVICE", "OUTPUT_DIR", *(f"MODEL.{part}.NAME" for part in parts)}
    assert set(differences(ours, stock)) <= allowed


@pytest.mark.parametrize("family", FAMILIES)
def test_an_arm_differs_from_its_reference_in_the_keys_of_its_file(family):
    configs = {name: read_arm(arm) for name, arm in coco_arms(family).items()}
    for arm in arms.load_all(family):
        if arm.reference is None:
            assert not set(differences(configs[arm.name], read_cfg(COCO[family]))), arm.name
            continue
        different = set(differences(configs[arm.name], configs[arm.reference]))
        assert different <= arm.changes.keys(), arm.name
        assert different or arm.name in COCO_HAS_IT, arm.name


def test_an_arm_of_a_loss_differs_in_its_name_and_its_own_keys():
    for group, key, registry in (
        ("classification losses", CLS_LOSS, CLS_LOSS_REGISTRY),
        ("box losses", "MODEL.FOCAL.BOX_LOSS.NAME", BOX_LOSS_REGISTRY),
    ):
        for name in arms.names_of_group(group):
            arm = arms.load(name)
            own = {key} | OTHER_KEYS.get(arm.name, set())
            if key in arm.changes:
                own |= set(registry.get(arm.changes[key]).config_keys.values())
            assert arm.changes.keys() <= own, name


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_arms_of_a_base_are_the_same(family):
    configs = {
        name: read_arm(arm) for name, arm in coco_arms(family).items() if name not in COCO_HAS_IT
    }
    for (arm, cfg), (other, other_cfg) in itertools.combinations(configs.items(), 2):
        assert differences(cfg, other_cfg), (arm, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_comparison_of_all_arms_on_the_built_in_data_set_has_each(family):
    missing = set(arms.names(family)) - shapes_arms(family).keys()
    assert missing == {
        name for each, _, name in (key.partition("/") for key in NOT_ON_SHAPES) if each == family
    }


def test_an_arm_of_the_data_differs_from_every_base_in_the_keys_of_its_file_alone():
    """Its keys choose images, and the base decides which empty images it has."""
    for arm in arms.load_all(arms.DATA):
        assert all(key.startswith("DATALOADER.") for key in arm.changes), arm.name
        for family in FAMILIES:
            base = read_cfg(COCO[family])
            cfg = base.clone()
            arms.apply(cfg, arm.name)
            changed = set(differences(cfg, base))
            assert changed == arm.changes.keys() or arm.name == "without_empty"


def test_the_arms_of_the_data_are_in_the_comparison_of_all_one_stage_arms():
    missing = set(arms.names(arms.DATA)) - shapes_arms("retinanet").keys()
    assert {f"data/{name}" for name in missing} <= NOT_ON_SHAPES.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_repeat_factor_with_focal_loss_has_the_keys_of_repeat_factor(family):
    combined, alone = arms.load("repeat_factor_fl", family), arms.load("repeat_factor")
    assert combined.changes == alone.changes


@each(
    ("arm", "name", "alpha"),
    [
        ("ce", "SigmoidCrossEntropyLoss", -1.0),
        ("alpha_ce", "SigmoidCrossEntropyLoss", 0.75),
        ("fl", "SigmoidFocalLoss", 0.25),
        ("fl_star", "SigmoidFocalStarLoss", 0.25),
    ],
)
@each("base", [coco_arms, shapes_arms])
def test_an_arm_has_the_papers_best_numbers(base, arm, name, alpha):
    cfg = read_arm(base("retinanet")[arm])
    assert name == cfg.MODEL.FOCAL.CLS_LOSS.NAME
    assert alpha == cfg.MODEL.RETINANET.FOCAL_LOSS_ALPHA
    assert cfg.MODEL.RETINANET.FOCAL_LOSS_GAMMA == 2.0
    assert cfg.MODEL.FOCAL.CLS_LOSS.FL_STAR_BETA == 1.0
    assert cfg.MODEL.RETINANET.PRIOR_PROB == 0.01
