import pytest
import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from focal_plugin import add_focal_config, get_cfg
from focal_plugin.config import resolve_device


def test_only_the_focal_node_and_the_device_are_added_to_detectron2s_config():
    ours, stock = get_cfg(), get_detectron2_cfg()
    del ours.MODEL["FOCAL"]
    ours.MODEL.DEVICE = stock.MODEL.DEVICE
    assert ours.dump() == stock.dump()


def test_adding_the_node_twice_changes_nothing():
    cfg = get_detectron2_cfg()
    add_focal_config(cfg)
    cfg.MODEL.FOCAL.NORMALIZER = "batch"
    add_focal_config(cfg)
    assert cfg.MODEL.FOCAL.NORMALIZER == "batch"


def test_detectron2s_own_config_is_left_alone():
    get_cfg()
    assert "FOCAL" not in get_detectron2_cfg().MODEL


def test_auto_is_the_device_there_is():
    cfg = get_detectron2_cfg()
    cfg.MODEL.DEVICE = "auto"
    resolve_device(cfg)
    assert ("cuda" if torch.cuda.is_available() else "cpu") == cfg.MODEL.DEVICE
    assert get_cfg().MODEL.DEVICE == cfg.MODEL.DEVICE


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("MODEL.FOCAL.CLS_LOSS.NAMES", "MODEL.FOCAL.CLS_LOSS.NAME"),
        ("MODEL.FOCAL.NORMALISER", "MODEL.FOCAL.NORMALIZER"),
        ("MODEL.RETINANET.FOCAL_GAMMA", "MODEL.RETINANET.FOCAL_LOSS_GAMMA"),
    ],
)
def test_an_unknown_key_is_told_the_nearest(tmp_path, unknown, nearest):
    with pytest.raises(KeyError, match=f"{unknown}; did you mean {nearest}"):
        get_cfg().merge_from_list([unknown, "x"])
    nested = "x"
    for part in reversed(unknown.split(".")):
        nested = CfgNode({part: nested})
    (tmp_path / "typo.yaml").write_text(nested.dump())
    with pytest.raises(KeyError, match=f"{unknown}; did you mean {nearest}"):
        get_cfg().merge_from_file(str(tmp_path / "typo.yaml"))


def test_other_errors_of_a_merge_pass_through():
    with pytest.raises(ValueError, match="Type mismatch"):
        get_cfg().merge_from_list(["MODEL.RETINANET.FOCAL_LOSS_GAMMA", "two"])


def test_the_node_survives_dump_and_load(tmp_path):
    cfg = get_cfg()
    cfg.MODEL.FOCAL.NORMALIZER = "per_image"
    (tmp_path / "config.yaml").write_text(cfg.dump())
    loaded = get_cfg()
    loaded.merge_from_file(str(tmp_path / "config.yaml"))
    assert loaded.MODEL.FOCAL == cfg.MODEL.FOCAL
