"""Every key of a detector's config has an effect on it, or is named."""

from collections import Counter

import pytest
import torch
from detectron2.modeling import build_model

from focal_plugin.engine.unread_keys import RecordingCfgNode

from ..each import each
from ..key_walk import fingerprint, keys_of, other_value, read, write
from .pairs import CASCADE, MASK, PAIRS, RCNN, RETINANET, SMALL
from .toy import NARROW, narrow_cfg

STOCK_BACKBONE = {
    RETINANET: "build_retinanet_resnet_fpn_backbone",
    RCNN: "build_resnet_fpn_backbone",
}


def make_cfg(file, *opts):
    return narrow_cfg(file, *SMALL, *opts)


def build(cfg):
    torch.manual_seed(0)
    return build_model(cfg)


def keys_read(cfg):
    cfg = RecordingCfgNode.of(cfg)
    build(cfg)
    return cfg.reads


@each("name", PAIRS)
def test_ours_reads_every_key_that_stock_reads(name):
    file, opts, stock = PAIRS[name]
    ours = keys_read(make_cfg(file, *opts))
    assert keys_read(make_cfg(file, *opts, *stock)) - ours == set()
    backbone = (*NARROW, "MODEL.BACKBONE.NAME", STOCK_BACKBONE[file])
    assert keys_read(make_cfg(file, *opts, *stock, *backbone)) - ours == set()


BY_DESIGN = {
    # they choose the component, whose keys are walked
    "MODEL.ANCHOR_GENERATOR.NAME": "a choice",
    "MODEL.BACKBONE.NAME": "a choice",
    "MODEL.META_ARCHITECTURE": "a choice",
    "MODEL.PROPOSAL_GENERATOR.NAME": "a choice",
    "MODEL.ROI_BOX_HEAD.NAME": "a choice",
    "MODEL.ROI_HEADS.NAME": "a choice",
    "MODEL.ROI_MASK_HEAD.NAME": "a choice",
    "MODEL.RPN.HEAD_NAME": "a choice",
    "MODEL.FOCAL.ASSIGNER.NAME": "a choice",
    "MODEL.FOCAL.BAG_LOSS.NAME": "a choice",
    "MODEL.FOCAL.BALANCE.NAME": "a choice",
    "MODEL.FOCAL.BOX_LOSS.NAME": "a choice",
    "MODEL.FOCAL.BOX_LOSS.WEIGHTED_BY": "a choice",
    "MODEL.FOCAL.CLS_LOSS.NAME": "a choice",
    "MODEL.FOCAL.HEAD.NAME": "a choice",
    "MODEL.FOCAL.MINING.NAME": "a choice",
    "MODEL.FOCAL.NORMALIZER.NAME": "a choice",
    "MODEL.FOCAL.REWEIGHT.NAME": "a choice",
    "MODEL.FOCAL.RPN.ASSIGNER": "a choice",
    "MODEL.FOCAL.RPN.BALANCE.NAME": "a choice",
    "MODEL.FOCAL.RPN.BOX_LOSS.NAME": "a choice",
    "MODEL.FOCAL.RPN.BOX_LOSS.WEIGHTED_BY": "a choice",
    "MODEL.FOCAL.RPN.CLS_LOSS.NAME": "a choice",
    "MODEL.FOCAL.RPN.MINING.NAME": "a choice",
    "MODEL.FOCAL.RPN.NORMALIZER": "a choice",
    "MODEL.FOCAL.ROI_HEADS.BALANCE.NAME": "a choice",
    "MODEL.FOCAL.ROI_HEADS.BOX_LOSS.NAME": "a choice",
    "MODEL.FOCAL.ROI_HEADS.BOX_LOSS.WEIGHTED_BY": "a choice",
    "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME": "a choice",
    "MODEL.FOCAL.ROI_HEADS.REWEIGHT.NAME": "a choice",
    # names
    "MODEL.FOCAL.CLASS_NAMES": "they are shown, and have no effect on the detector",
    "MODEL.FPN.IN_FEATURES": "features of the backbone",
    "MODEL.RESNETS.OUT_FEATURES": "features of the backbone",
    "MODEL.RETINANET.IN_FEATURES": "features of the backbone",
    "MODEL.ROI_HEADS.IN_FEATURES": "features of the backbone",
    "MODEL.RPN.IN_FEATURES": "features of the backbone",
    # options of a part that another key switches off
    "MODEL.FOCAL.FPN.TOP_LEVELS": "its number does not matter without a top block",
    "MODEL.FOCAL.HEAD.COSINE_SCALE": "CLASSIFIER conv has no scale",
    "MODEL.FOCAL.ROI_BOX_HEAD.NORM_ORDER": "without a norm it has no order",
    "MODEL.FOCAL.RPN.BOX_LOSS.HUBER_DELTA": "None is the default of the style",
    "MODEL.FOCAL.RPN.CROWD_THRESH": "None is the default of the rule",
    "MODEL.FOCAL.CLS_LOSS.CLASS_ALPHA": "its length depends on the classes",
    "MODEL.ROI_BOX_HEAD.CONV_DIM": "there is no convolution",
    "MODEL.ROI_BOX_HEAD.NORM": "there is no convolution",
    "MODEL.ROI_MASK_HEAD.NORM": "its default is no norm, and GN has 32 channels",
    "MODEL.DEVICE": "there is no GPU here",
}
"""Keys without a second legal value here, or without an effect in these configs, and the reason."""

BLOCKS = (
    "DEFORM_MODULATED", "DEFORM_NUM_GROUPS", "DEFORM_ON_PER_STAGE", "DEPTH", "NUM_GROUPS",
    "RES2_OUT_CHANNELS", "RES5_DILATION", "STRIDE_IN_1X1", "WIDTH_PER_GROUP",
)  # fmt: skip
REFUSED = {
    **{f"MODEL.RESNETS.{name}": rf"MODEL\.RESNETS\.{name} = .* has no effect" for name in BLOCKS},
    "MODEL.FOCAL.ROI_HEADS.NORMALIZER": "requires a loss in",
    "MODEL.FOCAL.ROI_HEADS.CARL.WEIGHT": "requires a loss in",
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": "use sigmoid cross entropy",  # by Detectron2
}
"""Keys that are refused at their other value, and the message."""


@pytest.fixture
def walked_before():
    return set()


KINDS = {"retinanet": (RETINANET, ()), "mask": (RCNN, MASK)}


@each("name", KINDS)
def test_every_key_that_is_read_changes_the_detector_or_is_refused(name, walked_before):
    file, opts = KINDS[name]
    base = make_cfg(file, *opts)
    expected = fingerprint(build(base))
    assert fingerprint(build(base)) == expected
    ignored = set()
    for key in sorted(keys_read(base) - BY_DESIGN.keys() - walked_before):
        cfg = make_cfg(file, *opts)
        write(cfg, key, other_value(key, read(cfg, key)))
        assert read(cfg, key) not in (None, read(base, key)), key
        if key in REFUSED:
            with pytest.raises((ValueError, AssertionError), match=REFUSED[key]):
                build(cfg)
        elif fingerprint(build(cfg)) == expected:
            ignored.add(key)
        walked_before.add(key)
    assert ignored == set()


def test_the_keys_by_design_exist():
    assert BY_DESIGN.keys() <= set(keys_of(make_cfg(RETINANET)))


REPLACED = [
    (RETINANET, "RETINANET.BBOX_REG_LOSS_TYPE", "giou", "FOCAL.BOX_LOSS.NAME", "DIoULoss"),
    (RCNN, "RPN.BBOX_REG_LOSS_TYPE", "giou", "FOCAL.RPN.BOX_LOSS.NAME", "DIoULoss"),
    (RCNN, "RPN.BBOX_REG_LOSS_TYPE", "diou", "FOCAL.RPN.STYLE", "tensorpack"),
    (RCNN, "RPN.BBOX_REG_WEIGHTS", (1.0, 1.0, 2.0, 2.0), "FOCAL.RPN.STYLE", "matterport"),
    (RCNN, "RPN.BBOX_REG_WEIGHTS", (2.0, 1.0, 2.0, 2.0), "FOCAL.RPN.TARGET_STD", [0.1] * 4),
    (RETINANET, "RETINANET.FOCAL_LOSS_GAMMA", 3.0, "FOCAL.CLS_LOSS.NAME", "AsymmetricLoss"),
    (RETINANET, "RETINANET.FOCAL_LOSS_ALPHA", 0.5, "FOCAL.CLS_LOSS.NAME", "GHMLoss"),
    (RCNN, "RPN.SMOOTH_L1_BETA", 0.5, "FOCAL.RPN.BOX_LOSS.NAME", "GIoULoss"),
    (RCNN, "ROI_BOX_HEAD.SMOOTH_L1_BETA", 0.5, "FOCAL.ROI_HEADS.BOX_LOSS.NAME", "HuberLoss"),
    (RCNN, "RPN.POSITIVE_FRACTION", 0.25, "FOCAL.RPN.MINING.NAME", "all"),
    (RCNN, "RPN.POSITIVE_FRACTION", 0.75, "FOCAL.RPN.MINING.NAME", "TopKMiner"),
    (RCNN, "ROI_HEADS.POSITIVE_FRACTION", 0.5, "ROI_HEADS.NAME", "OHEMROIHeads"),
    (RCNN, "ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "ciou", "FOCAL.ROI_HEADS.BOX_LOSS.NAME", "HuberLoss"),
]


@pytest.fixture(autouse=True)
def nothing_logged_before(monkeypatch):
    """Detectron2 logs a message of which one is enough once in a process."""
    monkeypatch.setattr("detectron2.utils.logger._LOG_COUNTER", Counter())


@pytest.mark.parametrize(("file", "key", "value", "by", "name"), REPLACED)
def test_a_key_that_another_one_replaces_is_named(file, key, value, by, name, caplog):
    key, by = f"MODEL.{key}", f"MODEL.{by}"
    build(make_cfg(file, key, value))
    build(make_cfg(file, by, name))
    assert "has no effect" not in caplog.text
    build(make_cfg(file, key, value, by, name))
    (record,) = [x for x in caplog.records if "has no effect" in x.message]
    assert record.message.startswith(f"{key} = {value!r} has no effect with MODEL.")


@each(
    "opts",
    [
        ("RETINANET.FOCAL_LOSS_GAMMA", 3.0, "FOCAL.CLS_LOSS.NAME", "PolyFocalLoss"),
        ("RETINANET.FOCAL_LOSS_ALPHA", -1.0, "FOCAL.CLS_LOSS.NAME", "SigmoidCrossEntropyLoss"),
        ("RPN.SMOOTH_L1_BETA", 0.5, "FOCAL.RPN.BOX_LOSS.NAME", "SmoothL1Loss"),
    ],
)
def test_an_option_of_the_chosen_loss_is_not_named(opts, caplog):
    names = [f"MODEL.{x}" if "." in str(x) and isinstance(x, str) else x for x in opts]
    build(make_cfg(RCNN if "RPN" in opts[0] else RETINANET, *names))
    assert "has no effect" not in caplog.text


def test_a_cascade_names_a_replaced_key_once(caplog):
    loss = ("MODEL.FOCAL.ROI_HEADS.BOX_LOSS.NAME", "BalancedL1Loss")
    build(make_cfg(RCNN, *CASCADE, *loss, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "diou"))
    assert caplog.text.count("has no effect") == 1
