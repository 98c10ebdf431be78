import pytest
import torch
from detectron2.modeling import build_backbone

from focal_plugin import get_cfg

from ..conftest import ROOT


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/Shapes-Detection/Base-RetinaNet-Small.yaml"))
    return cfg


def test_output_shape_says_what_forward_gives(cfg):
    backbone = build_backbone(cfg)
    features = backbone(torch.zeros(1, 3, 96, 128))
    for name, shape in backbone.output_shape().items():
        expected = (1, shape.channels, 96 // shape.stride, 128 // shape.stride)
        assert tuple(features[name].shape) == expected
    assert set(cfg.MODEL.RETINANET.IN_FEATURES) <= set(features)


def test_widths_are_the_channels_of_the_stages(cfg):
    cfg.MODEL.FOCAL.SMALL_RESNET.WIDTHS = [8, 16, 32]
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4"]
    stages = build_backbone(cfg).bottom_up.output_shape()
    assert [stages[name].channels for name in ("res2", "res3", "res4")] == [8, 16, 32]


def test_an_illegal_width_is_an_error_that_names_its_key(cfg):
    cfg.MODEL.FOCAL.SMALL_RESNET.WIDTHS = [24, 0]
    with pytest.raises(ValueError, match=r"MODEL\.FOCAL\.SMALL_RESNET\.WIDTHS"):
        build_backbone(cfg)
