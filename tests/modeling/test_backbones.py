"""Backbones: kind and number of the levels above P5, and the small backbone."""

import pytest
import torch
from detectron2.modeling import build_backbone
from torch import nn
from torch.nn import functional as F

from focal_plugin.modeling.backbones import LastLevelSubsample

from ..cached_configs import read_cfg
from ..each import each
from .toy import toy_cfg
from .toy_rcnn import toy_rcnn_cfg

TOP_BLOCK = "MODEL.FOCAL.FPN.TOP_BLOCK"
TOP_LEVELS = "MODEL.FOCAL.FPN.TOP_LEVELS"
TOP_BLOCKS = ["res5", "p5", "maxpool", ""]
RESNETS = {
    "build_small_resnet_fpn_backbone": lambda *opts: read_cfg(
        "Shapes-Detection/retinanet_small.yaml", *opts
    ),
    "build_focal_resnet_fpn_backbone": toy_cfg,
}
"""Each builder of ours, and a config of it."""


@pytest.fixture
def cfg():
    return read_cfg("Shapes-Detection/retinanet_small.yaml")


def make_backbone(*opts):
    torch.manual_seed(0)
    opts = ["MODEL.BACKBONE.NAME", "build_focal_resnet_fpn_backbone", *opts]
    return build_backbone(toy_cfg(*opts)).eval()


@torch.no_grad()
def features_of(backbone):
    images = torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    return {**backbone.bottom_up(images), **backbone(images)}


def build_seeded(cfg, name):
    """Return a backbone, and the state of the random generator after it."""
    cfg = cfg.clone()
    cfg.MODEL.BACKBONE.NAME = name
    torch.manual_seed(0)
    return build_backbone(cfg).eval(), torch.get_rng_state()


STOCKS = {
    "build_retinanet_resnet_fpn_backbone": (toy_cfg, ["p3", "p4", "p5", "p6", "p7"]),
    "build_resnet_fpn_backbone": (toy_rcnn_cfg, ["p2", "p3", "p4", "p5", "p6"]),
}
"""Detectron2's builder -> the config of ours that is equal, and its levels."""


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize("name", STOCKS)
def test_either_stock_backbone_is_equal_in_keys_initial_values_and_features(name, norm):
    make_cfg, levels = STOCKS[name]
    cfg = make_cfg("MODEL.FPN.NORM", norm)
    stock, stock_state = build_seeded(cfg, name)
    ours, our_state = build_seeded(cfg, "build_focal_resnet_fpn_backbone")
    assert torch.equal(our_state, stock_state), "later layers would differ"
    assert list(ours.state_dict()) == list(stock.state_dict())
    for key, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    assert list(ours.output_shape()) == levels
    assert ours.output_shape() == stock.output_shape()
    assert ours.size_divisibility == stock.size_divisibility
    for level, feature in features_of(stock).items():
        assert torch.equal(features_of(ours)[level], feature), level


@pytest.mark.parametrize(("top_block", "source"), [("res5", "res5"), ("p5", "p5")])
def test_one_level_of_convolutions_is_p6_alone_with_stocks_initial_values(top_block, source):
    one = make_backbone(TOP_BLOCK, top_block, TOP_LEVELS, 1)
    after_one = torch.get_rng_state()
    two = make_backbone(TOP_BLOCK, top_block)
    assert torch.equal(after_one, torch.get_rng_state()), "later layers would differ"
    only_in_two = set(two.state_dict()) - set(one.state_dict())
    assert only_in_two == {"top_block.p7.weight", "top_block.p7.bias"}
    for key, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[key], value), key
    features = features_of(one)
    assert list(one.output_shape()) == ["p3", "p4", "p5", "p6"]
    with torch.no_grad():
        assert torch.equal(features["p6"], one.top_block.p6(features[source]))
    assert (features["p6"] < 0).any(), "P6 itself is not rectified"


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


@each("size", [(6, 8), (5, 7), (1, 2)])
@each("num_levels", [1, 2])
def test_subsampling_is_a_stride_of_two_in_value_and_gradient(num_levels, size):
    """(arXiv:1612.03144 section 4.1.) Half of an odd size is rounded up."""
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, 3, *size, generator=generator, requires_grad=True)
    levels = LastLevelSubsample(num_levels=num_levels)(feature)
    expected = [feature[:, :, ::2, ::2], feature[:, :, ::4, ::4]][:num_levels]
    assert len(levels) == num_levels
    upstream = [torch.randn(level.shape, generator=generator) for level in expected]
    for level, other in zip(levels, expected, strict=True):
        assert torch.equal(level, other)
    (gradient,) = torch.autograd.grad(levels, feature, upstream)
    (expected_gradient,) = torch.autograd.grad(expected, feature, upstream)
    assert torch.equal(gradient, expected_gradient)
    assert (gradient == 0).any(), "a pixel between two samples has no gradient"


@pytest.mark.parametrize("num_levels", [1, 2])
def test_no_top_block_leaves_p5_the_last_level(num_levels):
    backbone = make_backbone(TOP_BLOCK, "", TOP_LEVELS, num_levels)
    assert list(backbone.output_shape()) == ["p3", "p4", "p5"]


@pytest.mark.parametrize("top_block", ["p5", "maxpool"])
def test_p6_is_made_of_p5_after_its_norm(top_block):
    backbone = make_backbone("MODEL.FPN.NORM", "GN", TOP_BLOCK, top_block, TOP_LEVELS, 1)
    nn.init.constant_(backbone.fpn_output5.norm.weight, 0)
    nn.init.constant_(backbone.fpn_output5.norm.bias, 3)
    made = backbone.top_block(torch.full((1, 64, 4, 6), 3.0))
    assert torch.equal(features_of(backbone)["p6"], made[0])


@pytest.mark.parametrize("num_levels", [1, 2])
@pytest.mark.parametrize("top_block", TOP_BLOCKS)
def test_every_parameter_contributes_to_some_level(cfg, top_block, num_levels):
    cfg.merge_from_list([TOP_BLOCK, top_block, TOP_LEVELS, num_levels])
    torch.manual_seed(0)
    backbone = build_backbone(cfg)
    images = torch.randn(2, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    # The sum of squares, because the sum of a group norm's output is constant.
    sum(feature.square().sum() for feature in backbone(images).values()).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_norm_gn_normalizes_the_fpn_and_leaves_the_top_block_alone():
    backbone = make_backbone("MODEL.FPN.NORM", "GN")
    assert isinstance(backbone.fpn_lateral4.norm, nn.GroupNorm)
    assert isinstance(backbone.fpn_output5.norm, nn.GroupNorm)
    assert backbone.fpn_output5.bias is None
    assert type(backbone.top_block.p6) is nn.Conv2d
    features = features_of(backbone)
    groups = features["p4"].view(1, 32, -1)
    torch.testing.assert_close(groups.mean(2), torch.zeros(1, 32), atol=1e-5, rtol=0)


@each("name", RESNETS)
def test_an_illegal_top_block_is_an_error_that_names_its_key(name):
    with pytest.raises(ValueError, match=rf"{TOP_BLOCK} must be one of .*maxpool.*, got 'p6'"):
        build_backbone(RESNETS[name](TOP_BLOCK, "p6"))


@each("name", RESNETS)
@each("top_block", TOP_BLOCKS)
@each("num_levels", [0, 3, -1])
def test_an_illegal_number_of_levels_is_an_error_that_names_its_key(name, top_block, num_levels):
    message = rf"{TOP_LEVELS} must be one of 2, 1, got {num_levels}"
    with pytest.raises(ValueError, match=message):
        build_backbone(RESNETS[name](TOP_BLOCK, top_block, TOP_LEVELS, num_levels))


@pytest.mark.parametrize("num_levels", [1, 2])
@pytest.mark.parametrize("top_block", TOP_BLOCKS)
def test_output_shape_says_what_forward_gives(cfg, top_block, num_levels):
    cfg.merge_from_list([TOP_BLOCK, top_block, TOP_LEVELS, num_levels])
    backbone = build_backbone(cfg)
    features = backbone(torch.zeros(1, 3, 128, 256))
    assert list(features) == list(backbone.output_shape())
    above = ["p6", "p7"][:num_levels] if top_block else []
    assert list(features) == ["p3", "p4", "p5", *above]
    for name, shape in backbone.output_shape().items():
        expected = (1, shape.channels, 128 // shape.stride, 256 // shape.stride)
        assert tuple(features[name].shape) == expected


def test_the_small_config_has_no_top_block(cfg):
    assert list(build_backbone(cfg).output_shape()) == cfg.MODEL.RETINANET.IN_FEATURES


@pytest.mark.parametrize(("num_levels", "above"), [(1, ["p5"]), (2, ["p5", "p6"])])
@pytest.mark.parametrize(
    ("top_block", "source"), [("res5", "res4"), ("p5", "p4"), ("maxpool", "p4")]
)
def test_the_top_block_is_on_the_last_stage_of_the_config(
    cfg, top_block, source, num_levels, above
):
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4"]
    cfg.merge_from_list([TOP_BLOCK, top_block, TOP_LEVELS, num_levels])
    backbone = build_backbone(cfg)
    assert backbone.top_block.in_feature == source
    assert list(backbone(torch.zeros(1, 3, 64, 64))) == ["p2", "p3", "p4", *above]


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


FREEZE_AT = "MODEL.BACKBONE.FREEZE_AT"


@each("name", RESNETS)
@each("freeze_at", range(6))
def test_the_first_stages_are_frozen_and_no_other(name, freeze_at):
    backbone = build_backbone(RESNETS[name](FREEZE_AT, freeze_at))
    frozen = {key.split(".")[1] for key, p in backbone.named_parameters() if not p.requires_grad}
    trained = {key.split(".")[1] for key, p in backbone.named_parameters() if p.requires_grad}
    stages = ["stem", "res2", "res3", "res4", "res5"]
    assert frozen == set(stages[:freeze_at])
    assert trained.isdisjoint(frozen)
    assert trained.issuperset(stages[freeze_at:])
    batch_norms = [x for x in backbone.bottom_up.stem.modules() if isinstance(x, nn.BatchNorm2d)]
    assert bool(batch_norms) is (freeze_at == 0 and "small" in name)


@each("name", RESNETS)
@each("freeze_at", [-1, 6, 100])
def test_a_stage_that_does_not_exist_is_not_frozen_silently(name, freeze_at):
    with pytest.raises(ValueError, match=rf"FREEZE_AT must be in 0 .* to 5 .*, got {freeze_at}"):
        build_backbone(RESNETS[name](FREEZE_AT, freeze_at))


def test_the_stages_are_counted_by_the_widths(cfg):
    cfg.MODEL.FOCAL.SMALL_RESNET.WIDTHS = [32, 64, 96]
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4"]
    cfg.MODEL.BACKBONE.FREEZE_AT = 4
    backbone = build_backbone(cfg)
    assert not any(p.requires_grad for p in backbone.bottom_up.parameters())
    cfg.MODEL.BACKBONE.FREEZE_AT = 5
    with pytest.raises(ValueError, match="to 4 "):
        build_backbone(cfg)


@each(
    "key, value",
    [
        ("DEPTH", 101),
        ("NUM_GROUPS", 32),
        ("WIDTH_PER_GROUP", 8),
        ("STRIDE_IN_1X1", False),
        ("RES2_OUT_CHANNELS", 64),
        ("RES5_DILATION", 2),
        ("DEFORM_ON_PER_STAGE", [False, True, True, True]),
        ("DEFORM_MODULATED", True),
        ("DEFORM_NUM_GROUPS", 2),
    ],
)
def test_an_option_that_basic_blocks_do_not_have_is_refused(key, value):
    cfg = read_cfg("Shapes-Detection/retinanet_small.yaml", f"MODEL.RESNETS.{key}", value)
    with pytest.raises(ValueError, match=rf"MODEL.RESNETS.{key} = .* has no effect with .*small"):
        build_backbone(cfg)
