"""Every file in configs/: it loads with the safe loader, builds, and says what its name says."""

import itertools
import re
from typing import NamedTuple

import pytest
import yaml
from detectron2 import model_zoo
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import build_model

from focal_plugin.compare.plan.spec import load_spec
from focal_plugin.compare.plan.spec_file import read_spec
from focal_plugin.data import check_classes
from focal_plugin.losses import BOX_LOSS_REGISTRY, CLS_LOSS_REGISTRY
from focal_plugin.losses.build import STOCK_BOX_LOSSES
from focal_plugin.mining import MINER_REGISTRY

from .cached_configs import files_read_once, read_cfg
from .conftest import ROOT
from .each import each
from .uninitialized import uninitialized

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
COMPARISONS = [file for file in CONFIGS if file.parent.name == "comparisons"]
MODELS = [file for file in CONFIGS if file not in COMPARISONS]

CLS_LOSS = "MODEL.FOCAL.CLS_LOSS.NAME"
ALPHA = "MODEL.RETINANET.FOCAL_LOSS_ALPHA"
GAMMA = "MODEL.RETINANET.FOCAL_LOSS_GAMMA"
BOX_LOSS = "MODEL.FOCAL.BOX_LOSS.NAME"
MINER = "MODEL.FOCAL.MINING.NAME"
TOP_BLOCK = "MODEL.FOCAL.FPN.TOP_BLOCK"
NORMALIZER = "MODEL.FOCAL.NORMALIZER"

# arm -> the keys in which it differs from its reference. An arm that is not here is about a loss:
# it differs in the loss's name, and in no key that is not that loss's own.
ONE_STAGE = {
    "fl_gamma_half": {ALPHA, GAMMA},
    "fl_label_smoothing": {"MODEL.FOCAL.CLS_LOSS.LABEL_SMOOTHING"},
    "fl_class_alpha": {"MODEL.FOCAL.CLS_LOSS.CLASS_ALPHA"},
    "box_smooth_l1": {"MODEL.RETINANET.SMOOTH_L1_LOSS_BETA"},
    "box_huber": {BOX_LOSS},
    "box_balanced_l1": {BOX_LOSS},
    "box_ghm": {BOX_LOSS, "MODEL.FOCAL.BOX_LOSS.WEIGHT"},
    "box_iou": {BOX_LOSS},
    "box_giou": {BOX_LOSS},
    "box_diou": {BOX_LOSS},
    "box_ciou": {BOX_LOSS},
    "ohem": {MINER},
    "ohem_1_3": {MINER},
    "ssd_3_1": {MINER},
    "top_k": {MINER},
    "head_shared_tower": {"MODEL.FOCAL.HEAD.NAME"},
    "head_cosine": {"MODEL.FOCAL.HEAD.CLASSIFIER"},
    "head_depth": {"MODEL.RETINANET.NUM_CONVS"},
    "head_gn": {"MODEL.RETINANET.NORM"},
    "head_bn": {"MODEL.RETINANET.NORM"},
    "head_no_norm": {"MODEL.RETINANET.NORM"},
    "prior_half": {"MODEL.RETINANET.PRIOR_PROB"},
    "fpn_gn": {"MODEL.FPN.NORM"},
    "fpn_no_norm": {"MODEL.FPN.NORM"},
    "p6_res5": {TOP_BLOCK, "MODEL.RETINANET.IN_FEATURES", "MODEL.ANCHOR_GENERATOR.SIZES"},
    "p6_p5": {TOP_BLOCK},
    "p6_maxpool": {TOP_BLOCK},
    "low_quality_clobber": {"MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY"},
    "low_quality_off": {"MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY"},
    "crowd_ignore": {"MODEL.FOCAL.ANCHOR_LABELS.CROWD"},
    "norm_batch": {NORMALIZER},
    "norm_per_image": {NORMALIZER},
    "norm_fixed": {NORMALIZER, "MODEL.FOCAL.NORMALIZER_VALUE"},
    "norm_global": {NORMALIZER},
    "norm_ema_global": {NORMALIZER},
}

RPN = "MODEL.FOCAL.RPN."
ROI = "MODEL.FOCAL.ROI_HEADS."
OHEM_ROI = {"MODEL.ROI_HEADS.NAME", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"}
PRIOR_HEAD = {"MODEL.RPN.HEAD_NAME", f"{RPN}PRIOR_PROB"}
CONV_HEAD = {f"MODEL.ROI_BOX_HEAD.{key}" for key in ("NUM_CONV", "CONV_DIM", "NUM_FC")}
GN = {f"MODEL.{key}" for key in ("RESNETS.NORM", "RESNETS.STRIDE_IN_1X1", "FPN.NORM", "WEIGHTS")}

TWO_STAGE = {
    "rpn_tensorpack": {f"{RPN}STYLE"},
    "rpn_matterport": {f"{RPN}STYLE"},
    "rpn_matterport_balanced": {f"{RPN}LOC_WEIGHT"},
    "rpn_loc_weight": {f"{RPN}LOC_WEIGHT"},
    "rpn_target_std_mean": {f"{RPN}TARGET_STD", f"{RPN}NORMALIZER"},
    "rpn_huber": {f"{RPN}BOX_LOSS.NAME"},
    "rpn_clobber": {f"{RPN}LOW_QUALITY"},
    "rpn_inside": {f"{RPN}MATCHED"},
    "rpn_softmax_ce": {f"{RPN}CLS_LOSS.NAME"},
    "rpn_target_std": {f"{RPN}TARGET_STD"},
    "rpn_mean": {f"{RPN}NORMALIZER"},
    "rpn_ohem": {f"{RPN}SAMPLING"},
    "rpn_fl_sampled": {f"{RPN}CLS_LOSS.NAME"},
    "rpn_ce_all": {*PRIOR_HEAD, f"{RPN}SAMPLING", f"{RPN}NORMALIZER"},
    "rpn_fl": {f"{RPN}CLS_LOSS.NAME"},
    "rpn_head_softmax": {"MODEL.RPN.HEAD_NAME"},
    "rpn_head_prior": PRIOR_HEAD,
    "rpn_head_gn": {"MODEL.RPN.HEAD_NAME", f"{RPN}NORM"},
    "roi_bce": {f"{ROI}CLS_LOSS.NAME"},
    "roi_fl_softmax": {f"{ROI}CLS_LOSS.NAME"},
    "roi_fl_sigmoid": {f"{ROI}CLS_LOSS.NAME"},
    "roi_fl_foreground": {f"{ROI}NORMALIZER", f"{ROI}PRIOR_PROB"},
    "roi_ohem": OHEM_ROI,
    "roi_ohem_fl": {f"{ROI}CLS_LOSS.NAME"},
    "roi_top_k": {f"{ROI}MINING.NAME"},
    "roi_cascade": {
        "MODEL.ROI_HEADS.NAME",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
        "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    },
    "roi_cascade_ohem": OHEM_ROI,
    "roi_box_balanced_l1": {f"{ROI}BOX_LOSS.NAME"},
    "head_conv": CONV_HEAD,
    "head_conv_gn": {"MODEL.ROI_BOX_HEAD.NORM"},
    "fpn_gn": {"MODEL.FPN.NORM"},
    "fpn_no_norm": {"MODEL.FPN.NORM"},
    "gn": GN,
    "gn_relu_norm": {"MODEL.FOCAL.ROI_BOX_HEAD.NORM_ORDER"},
    "p6_conv": {TOP_BLOCK},
    "p6_none": {TOP_BLOCK, "MODEL.RPN.IN_FEATURES", "MODEL.ANCHOR_GENERATOR.SIZES"},
}


class Family(NamedTuple):
    """Arms that are compared with each other."""

    stems: dict[str, str]  # folder -> what the name of an arm's file starts with
    folder_stem: str  # what the last folder of OUTPUT_DIR has before the arm, in Shapes-Detection
    comparison: str  # of all arms in Shapes-Detection
    reference: str  # the arm that all are to be compared with which are based on no other arm
    differ: dict[str, set[str]]  # arm -> keys in which it differs from that
    # arm -> the keys that differ in both folders, where one keeps a default
    at_least: dict[str, set[str]]
    # arm -> the only folder that has it, and why
    in_one_folder: dict[str, tuple[str, str]]


FAMILIES = {
    "retinanet": Family(
        stems={"COCO-Detection": "retinanet_R_50_FPN_1x_", "Shapes-Detection": "retinanet_small_"},
        folder_stem="",
        comparison="catalogue.yaml",
        reference="fl",
        differ=ONE_STAGE,
        at_least={"norm_fixed": {NORMALIZER}},
        in_one_folder={
            "fl_class_alpha": (
                "Shapes-Detection",
                "80 numbers for COCO would illustrate nothing more",
            ),
            "head_gn": ("COCO-Detection", "in the other, fl has it"),
            "head_no_norm": ("Shapes-Detection", "in the other, fl has none"),
            "fpn_gn": ("COCO-Detection", "in the other, fl has it"),
            "fpn_no_norm": ("Shapes-Detection", "in the other, fl has none"),
            "p6_res5": ("Shapes-Detection", "in the other, it is fl"),
        },
    ),
    "faster_rcnn": Family(
        stems={
            "COCO-Detection": "faster_rcnn_R_50_FPN_1x_",
            "Shapes-Detection": "faster_rcnn_small_",
        },
        folder_stem="faster_rcnn_",
        comparison="two_stage.yaml",
        reference="stock",
        differ=TWO_STAGE,
        at_least={
            "roi_ohem": {"MODEL.ROI_HEADS.NAME"},
            "roi_cascade_ohem": {"MODEL.ROI_HEADS.NAME"},
            "roi_cascade": TWO_STAGE["roi_cascade"] - {"MODEL.RPN.POST_NMS_TOPK_TRAIN"},
            "head_conv": {"MODEL.ROI_BOX_HEAD.NUM_CONV", "MODEL.ROI_BOX_HEAD.NUM_FC"},
            "gn": {"MODEL.RESNETS.NORM"},
        },
        in_one_folder={
            "fpn_gn": ("COCO-Detection", "in the other, stock has it"),
            "fpn_no_norm": ("Shapes-Detection", "in the other, stock has none"),
        },
    ),
}
FOLDERS = [(folder, name) for name, family in FAMILIES.items() for folder in family.stems]


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
    assert len(CONFIGS) > 200
    for file in CONFIGS:
        assert "!!" not in file.read_text(), file
        yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def arms_of(folder, family="retinanet"):
    """Arm -> its file."""
    stem = FAMILIES[family].stems[folder]
    files = (ROOT / "configs" / folder).glob(f"{stem}*.yaml")
    return {file.stem.removeprefix(stem): file for file in files}


def reference_of(folder, family, arm):
    """The file of the arm that this one's is based on."""
    arms = arms_of(folder, family)
    based_on = arms[arm].parent / yaml.safe_load(arms[arm].read_text())["_BASE_"]
    return based_on if based_on in arms.values() else arms[FAMILIES[family].reference]


def shrink(cfg):
    """
    A ResNet-50 becomes a ResNet-18 with a narrow pyramid: what an arm changes sits on top of them,
    and a model of full size takes a second to allocate.
    """
    if cfg.MODEL.RESNETS.DEPTH > 18:
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


@pytest.mark.parametrize(
    ("file", "blocks_of_res4"),
    [
        ("COCO-Detection/retinanet_R_50_FPN_1x_fl.yaml", 6),
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


@pytest.mark.parametrize(
    ("comparison", "example", "components"),
    [
        ("shapes_losses", "../Shapes-Detection/retinanet_small_mine.yaml", LOSSES),
        ("coco_losses", "../COCO-Detection/retinanet_R_50_FPN_1x_mine.yaml", LOSSES),
        ("shapes_mining", "../Shapes-Detection/retinanet_small_mine.yaml", dict(MINER_REGISTRY)),
    ],
)
def test_a_comparison_of_all_losses_or_miners_has_a_new_one_too(comparison, example, components):
    file = ROOT / f"configs/comparisons/{comparison}.yaml"
    arms = read_spec(file).arms.values()
    compared = set().union(*(components_of(load(arm.config_file)) for arm in arms))
    for name in components:
        assert name in compared, (
            f'no arm of {file} is about {name}: add the line `mine: "{example}"`'
        )


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
    ours = load(ROOT / "configs/COCO-Detection/retinanet_R_50_FPN_1x_fl.yaml")
    del ours.MODEL["FOCAL"]
    allowed = {"MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.DEVICE", "OUTPUT_DIR"}
    assert set(differences(ours, stock)) <= allowed


def test_the_1x_stock_config_is_the_model_zoos_with_our_parts():
    stock = get_detectron2_cfg()
    stock.merge_from_file(
        model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"), allow_unsafe=True
    )
    ours = load(ROOT / "configs/COCO-Detection/faster_rcnn_R_50_FPN_1x_stock.yaml")
    assert (ours.MODEL.FOCAL.FPN.TOP_BLOCK, ours.MODEL.FOCAL.FPN.TOP_LEVELS) == ("maxpool", 1)
    del ours.MODEL["FOCAL"]
    parts = ("BACKBONE", "PROPOSAL_GENERATOR", "ROI_HEADS", "ROI_BOX_HEAD")
    allowed = {"MODEL.DEVICE", "OUTPUT_DIR", *(f"MODEL.{part}.NAME" for part in parts)}
    assert set(differences(ours, stock)) <= allowed


@pytest.mark.parametrize(("folder", "family"), FOLDERS)
def test_an_arm_differs_from_its_reference_in_its_own_keys(folder, family):
    spec = FAMILIES[family]
    for arm, file in arms_of(folder, family).items():
        if arm == spec.reference:
            continue
        cfg = load(file)
        different = differences(cfg, load(reference_of(folder, family, arm)))
        different = set(different) - {"OUTPUT_DIR"}
        if arm in spec.differ:
            assert spec.at_least.get(arm, spec.differ[arm]) <= different <= spec.differ[arm], arm
        else:
            loss = CLS_LOSS_REGISTRY.get(cfg.MODEL.FOCAL.CLS_LOSS.NAME)
            assert {CLS_LOSS} <= different <= {CLS_LOSS, *loss.config_keys.values()}, arm


@pytest.mark.parametrize(("folder", "family"), FOLDERS)
def test_no_two_arms_are_the_same(folder, family):
    configs = {arm: load(file) for arm, file in arms_of(folder, family).items()}
    for (arm, cfg), (other, other_cfg) in itertools.combinations(configs.items(), 2):
        assert set(differences(cfg, other_cfg)) - {"OUTPUT_DIR"}, (arm, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_folders_have_every_arm_but_those_listed_with_their_reason(family):
    coco, shapes = (set(arms_of(f"{data}-Detection", family)) for data in ("COCO", "Shapes"))
    alone = dict.fromkeys(coco - shapes, "COCO-Detection")
    alone |= dict.fromkeys(shapes - coco, "Shapes-Detection")
    spec = FAMILIES[family]
    assert alone == {arm: only for arm, (only, _) in spec.in_one_folder.items()}
    assert spec.differ.keys() <= coco | shapes


@pytest.mark.parametrize(("folder", "family"), FOLDERS)
def test_an_arm_writes_to_a_folder_of_its_own_name(folder, family):
    for arm, file in arms_of(folder, family).items():
        shapes = folder == "Shapes-Detection"
        stem = FAMILIES[family].folder_stem if shapes else file.stem.removesuffix(arm)
        assert load(file).OUTPUT_DIR.rpartition("/")[2] == stem + arm


@pytest.mark.parametrize("family", FAMILIES)
def test_a_comparison_has_every_arm_of_the_built_in_data_set(family):
    comparison = ROOT / "configs/comparisons" / FAMILIES[family].comparison
    arms = {name: arm.config_file for name, arm in read_spec(comparison).arms.items()}
    assert arms == arms_of("Shapes-Detection", family)


@each(
    ("arm", "name", "alpha"),
    [
        ("ce", "SigmoidCrossEntropyLoss", -1.0),
        ("alpha_ce", "SigmoidCrossEntropyLoss", 0.75),
        ("fl", "SigmoidFocalLoss", 0.25),
        ("fl_star", "SigmoidFocalStarLoss", 0.25),
    ],
)
@each("stem", ["COCO-Detection/retinanet_R_50_FPN_1x", "Shapes-Detection/retinanet_small"])
def test_an_arm_has_the_papers_best_numbers(stem, arm, name, alpha):
    cfg = load(ROOT / "configs" / f"{stem}_{arm}.yaml")
    assert name == cfg.MODEL.FOCAL.CLS_LOSS.NAME
    assert alpha == cfg.MODEL.RETINANET.FOCAL_LOSS_ALPHA
    assert cfg.MODEL.RETINANET.FOCAL_LOSS_GAMMA == 2.0
    assert cfg.MODEL.FOCAL.CLS_LOSS.BETA == 1.0
    assert cfg.MODEL.RETINANET.PRIOR_PROB == 0.01
