"""Backbones: what P6 and P7 are made of, and the small one."""

import pytest
import torch
from detectron2.modeling import build_backbone
from torch import nn
from torch.nn import functional as F

from focal_plugin import get_cfg

from ..conftest import ROOT
from .toy import toy_cfg

TOP_BLOCK = "MODEL.FOCAL.FPN.TOP_BLOCK"


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/Shapes-Detection/Base-RetinaNet-Small.yaml"))
    return cfg


def make_backbone(*opts):
    torch.manual_seed(0)
    opts = ["MODEL.BACKBONE.NAME", "build_focal_resnet_fpn_backbone", *opts]
    return build_backbone(toy_cfg(*opts)).eval()


@torch.no_grad()
def features_of(backbone):
    images = torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    return {**backbone.bottom_up(images), **backbone(images)}


def test_default_is_stock_in_keys_initial_values_and_features():
    ours = make_backbone()
    stock = make_backbone("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone")
    assert list(ours.state_dict()) == list(stock.state_dict())
    for name, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert ours.output_shape() == stock.output_shape()
    for name, feature in features_of(stock).items():
        assert torch.equal(features_of(ours)[name], feature), name


def test_p6_is_a_convolution_of_c5_and_p7_of_the_rectified_p6():
    backbone = make_backbone()
    features, top = features_of(backbone), backbone.top_block
    with torch.no_grad():
        assert torch.equal(features["p6"], top.p6(features["res5"]))
        assert torch.equal(features["p7"], top.p7(F.relu(features["p6"])))
    assert (features["p6"] < 0).any(), "P6 itself is not rectified"
    assert (top.p6.kernel_size, top.p6.stride, top.p6.padding) == ((3, 3), (2, 2), (1, 1))
    assert top.p6.in_channels == backbone.bottom_up.output_shape()["res5"].channels


@pytest.mark.parametrize(
    ("top_block", "follows"), [("res5", False), ("p5", True), ("maxpool", True)]
)
def test_p6_follows_p5_unless_it_is_made_from_c5(top_block, follows):
    backbone = make_backbone(TOP_BLOCK, top_block)
    before = features_of(backbone)
    nn.init.constant_(backbone.fpn_output5.weight, 0.01)
    after = features_of(backbone)
    assert not torch.equal(before["p5"], after["p5"])
    for name in ("p6", "p7"):
        assert torch.equal(before[name], after[name]) is not follows, name


def test_p5_makes_p6_by_a_convolution_of_p5():
    backbone = make_backbone(TOP_BLOCK, "p5")
    features, top = features_of(backbone), backbone.top_block
    with torch.no_grad():
        assert torch.equal(features["p6"], top.p6(features["p5"]))
        assert torch.equal(features["p7"], top.p7(F.relu(features["p6"])))


def test_maxpool_takes_every_second_pixel_and_has_no_parameter():
    backbone = make_backbone(TOP_BLOCK, "maxpool")
    features = features_of(backbone)
    assert torch.equal(features["p6"], features["p5"][:, :, ::2, ::2])
    assert torch.equal(features["p7"], features["p6"][:, :, ::2, ::2])
    assert not [name for name in backbone.state_dict() if name.startswith("top_block")]


def test_no_top_block_leaves_p5_the_last_level():
    assert list(make_backbone(TOP_BLOCK, "").output_shape()) == ["p3", "p4", "p5"]


def test_norm_gn_normalises_the_fpn_and_leaves_the_top_block_alone():
    backbone = make_backbone("MODEL.FPN.NORM", "GN")
    assert isinstance(backbone.fpn_lateral4.norm, nn.GroupNorm)
    assert isinstance(backbone.fpn_output5.norm, nn.GroupNorm)
    assert backbone.fpn_output5.bias is None
    assert type(backbone.top_block.p6) is nn.Conv2d
    features = features_of(backbone)
    groups = features["p4"].view(1, 32, -1)
    torch.testing.assert_close(groups.mean(2), torch.zeros(1, 32), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name", ["build_focal_resnet_fpn_backbone", "build_small_resnet_fpn_backbone"]
)
def test_an_illegal_top_block_is_an_error_that_names_its_key(name):
    opts = ["MODEL.BACKBONE.NAME", name, TOP_BLOCK, "p6"]
    with pytest.raises(ValueError, match=rf"{TOP_BLOCK} must be one of .*maxpool.*, got 'p6'"):
        build_backbone(toy_cfg(*opts))


@pytest.mark.parametrize("top_block", ["res5", "p5", "maxpool", ""])
def test_output_shape_says_what_forward_gives(cfg, top_block):
    cfg.merge_from_list([TOP_BLOCK, top_block])
    backbone = build_backbone(cfg)
    features = backbone(torch.zeros(1, 3, 128, 256))
    assert list(features) == list(backbone.output_shape())
    assert list(features) == ["p3", "p4", "p5", *(["p6", "p7"] if top_block else [])]
    for name, shape in backbone.output_shape().items():
        expected = (1, shape.channels, 128 // shape.stride, 256 // shape.stride)
        assert tuple(features[name].shape) == expected


def test_the_small_config_has_no_top_block(cfg):
    assert list(build_backbone(cfg).output_shape()) == cfg.MODEL.RETINANET.IN_FEATURES


@pytest.mark.parametrize(
    ("top_block", "source"), [("res5", "res4"), ("p5", "p4"), ("maxpool", "p4")]
)
def test_the_top_block_stands_on_the_last_stage_wherever_that_is(cfg, top_block, source):
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4"]
    cfg.merge_from_list([TOP_BLOCK, top_block])
    backbone = build_backbone(cfg)
    assert backbone.top_block.in_feature == source
    assert list(backbone(torch.zeros(1, 3, 64, 64))) == ["p2", "p3", "p4", "p5", "p6"]


def test_widths_are_the_channels_of_the_stages(cfg):
    cfg.MODEL.FOCAL.SMALL_RESNET.WIDTHS = [8, 16, 32]
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4"]
    stages = build_backbone(cfg).bottom_up.output_shape()
    assert [stages[name].channels for name in ("res2", "res3", "res4")] == [8, 16, 32]


@pytest.mark.parametrize("widths", [[24, 0], [], [24, 32, 32, 64]])
def test_illegal_widths_are_an_error_that_names_their_key(cfg, widths):
    cfg.MODEL.FOCAL.SMALL_RESNET.WIDTHS = widths
    with pytest.raises(ValueError, match=r"MODEL\.FOCAL\.SMALL_RESNET\.WIDTHS"):
        build_backbone(cfg)
