import pytest
import torch

from focal_plugin import get_cfg
from focal_plugin.mining import (
    Miner,
    OHEMMiner,
    OHEMRatioMiner,
    build_miner,
    ohem_keep_mask,
    ssd_keep_mask,
    top_k_keep_mask,
)

from ..each import each
from .reference import FUNCTIONS, MINER_CLASSES, NAMES, call_function, random_batch

NAN, INF = float("nan"), float("inf")
ILLEGAL = [
    ("num_classes", 0),
    ("num_keep", 0),
    ("num_keep", -128),
    ("scope", "gpu"),
    ("nms_thresh", -0.1),
    ("nms_thresh", 1.1),
    ("nms_thresh", NAN),
    ("pre_nms_topk", -1),
    ("nms_boxes", "proposals"),
    ("neg_pos_ratio", 0.0),
    ("neg_pos_ratio", -1.0),
    ("neg_pos_ratio", NAN),
    ("neg_pos_ratio", INF),
    ("empty_image_negatives", -1),
    ("rank_by", "box"),
    ("box_loss_on", "none"),
    ("divide_by", "num_pos"),
]


def config_of(name, *overrides):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.FOCAL.MINING.NAME", name, *overrides])
    return cfg


def test_by_default_there_is_no_miner():
    assert build_miner(get_cfg()) is None


@pytest.mark.parametrize("name", NAMES)
def test_the_default_keys_build_the_default_options(name):
    built, plain = build_miner(config_of(name)), MINER_CLASSES[name](num_classes=80)
    assert type(built) is type(plain)
    for option in MINER_CLASSES[name].config_keys:
        assert getattr(built, option) == getattr(plain, option), option


def test_every_key_of_mining_reaches_a_miner():
    keys = {key for name in NAMES for key in MINER_CLASSES[name].config_keys.values()}
    node = {f"MODEL.FOCAL.MINING.{key}" for key in get_cfg().MODEL.FOCAL.MINING}
    assert node - {"MODEL.FOCAL.MINING.NAME"} == keys - {"MODEL.RETINANET.NUM_CLASSES"}


def test_each_key_changes_its_option():
    changed = {
        "num_classes": 7,
        "scope": "batch",
        "rank_by": "cls_and_box",
        "box_loss_on": "kept",
        "divide_by": "kept",
        "num_keep": 64,
        "nms_thresh": 0.7,
        "pre_nms_topk": 1000,
        "nms_boxes": "anchors",
        "nms_per_label": True,
        "neg_pos_ratio": 2.0,
        "empty_image_negatives": 0,
    }
    assert changed.keys() == OHEMRatioMiner.config_keys.keys()
    keys = [x for option, key in OHEMRatioMiner.config_keys.items() for x in (key, changed[option])]
    miner = build_miner(config_of("OHEMRatioMiner", *keys))
    assert {option: getattr(miner, option) for option in changed} == changed
    assert "nms_thresh=0.7" in repr(miner)


def test_only_suppression_needs_boxes():
    needing = {name for name in NAMES if MINER_CLASSES[name].needs_boxes}
    assert needing == {"OHEMMiner", "OHEMRatioMiner"}


def test_an_unknown_miner_is_an_error_that_lists_the_registered_ones():
    with pytest.raises(KeyError, match=r"MODEL\.FOCAL\.MINING\.NAME.*OHEMMiner"):
        build_miner(config_of("OHEM"))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        (name, *illegal)
        for name in NAMES
        for illegal in ILLEGAL
        if illegal[0] in MINER_CLASSES[name].config_keys
    ],
)
def test_an_illegal_option_is_refused_by_module_and_config(name, option, value):
    with pytest.raises(ValueError, match=option):
        MINER_CLASSES[name](**{option: value})
    key = MINER_CLASSES[name].config_keys[option]
    with pytest.raises(ValueError, match=f"{key.replace('.', '[.]')} must be"):
        build_miner(config_of(name, key, value))


@each(("option", "value"), ILLEGAL)
def test_an_illegal_option_is_refused_by_the_functions(option, value):
    taking = {
        name: function for name, function in FUNCTIONS.items() if option in signature_of(function)
    }
    image = [x[0] for x in random_batch(num_images=1)]
    for name in taking:
        with pytest.raises(ValueError, match=option):
            call_function(name, *image, **{option: value})
    assert taking or option in Miner.config_keys or option == "nms_boxes"


def signature_of(function):
    return function.__wrapped__.__kwdefaults__


def test_a_count_is_an_integer():
    loss, labels, boxes = (x[0] for x in random_batch(num_images=1))
    with pytest.raises(ValueError, match="num_keep must be an integer"):
        OHEMMiner(num_keep=12.5)
    with pytest.raises(ValueError, match="num_keep must be an integer"):
        top_k_keep_mask(loss, labels, num_keep=12.5)
    with pytest.raises(ValueError, match="empty_image_negatives must be an integer"):
        ssd_keep_mask(loss, labels, empty_image_negatives=0.5)
    with pytest.raises(ValueError, match="pre_nms_topk must be an integer"):
        ohem_keep_mask(loss, labels, boxes, pre_nms_topk=1e3)


def test_the_miner_has_no_state():
    for name in NAMES:
        assert not MINER_CLASSES[name]().state_dict()
    assert torch.nn.Module in Miner.__mro__
