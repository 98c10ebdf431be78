"""Box heads: equality with stock in the stock order, and a norm after the ReLU."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, build_box_head
from torch.nn import functional as F

from focal_plugin import get_cfg
from focal_plugin.modeling.box_heads import FocalFastRCNNConvFCHead

from ..each import each
from .toy import gradients_of, toy_batch
from .toy_rcnn import STOCK, tiny_rcnn

NORM_ORDER = "MODEL.FOCAL.ROI_BOX_HEAD.NORM_ORDER"
ORDERS = ["norm_relu", "relu_norm"]
C, SIZE, GROUPS = 32, 5, 32
SHAPE = ShapeSpec(channels=C, height=SIZE, width=SIZE)


def make_head(head=FocalFastRCNNConvFCHead, *opts, norm="GN", num_conv=2, num_fc=1):
    """Build the head by name, like Detectron2."""
    cfg = get_cfg()
    node = cfg.MODEL.ROI_BOX_HEAD
    node.NAME, node.NORM = head.__name__, norm
    node.NUM_CONV, node.CONV_DIM, node.NUM_FC, node.FC_DIM = num_conv, 2 * C, num_fc, 16
    cfg.merge_from_list(list(opts))
    torch.manual_seed(0)
    return build_box_head(cfg, SHAPE)


def make_features(num_rois=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_rois, C, SIZE, SIZE, generator=generator, dtype=dtype)


def with_random_norms(head):
    """Set values other than 1 and 0, with which a norm's position matters."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in head.named_parameters():
        if ".norm." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter)
    return head


def group_norm(features, weight, bias):
    """Compute group norm by its definition, arXiv:1803.08494 eq. 1 to 4."""
    groups = features.reshape(len(features), GROUPS, -1)
    centred = groups - groups.mean(2, keepdim=True)
    groups = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
    return groups.reshape(features.shape) * weight[:, None, None] + bias[:, None, None]


def head_by_hand(features, parameters, order):
    for conv in ("conv1", "conv2"):
        features = F.conv2d(features, parameters[f"{conv}.weight"], padding=1)
        norm = parameters[f"{conv}.norm.weight"], parameters[f"{conv}.norm.bias"]
        if order == "relu_norm":
            features = group_norm(features.clamp(min=0), *norm)
        else:
            features = group_norm(features, *norm).clamp(min=0)
    linear = parameters["fc1.weight"], parameters["fc1.bias"]
    return F.linear(features.flatten(1), *linear).clamp(min=0)


@pytest.mark.parametrize("order", ORDERS)
def test_each_order_is_its_definition_in_value_and_gradient(order):
    head = with_random_norms(make_head(FocalFastRCNNConvFCHead, NORM_ORDER, order).double())
    features = make_features(dtype=torch.float64).requires_grad_()
    parameters = dict(head.named_parameters())
    result, expected = head(features), head_by_hand(features, parameters, order)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(2)).double()
    inputs = [features, *parameters.values()]
    gradients = torch.autograd.grad(result, inputs, upstream)
    expected_gradients = torch.autograd.grad(expected, inputs, upstream)
    for name, mine, other in zip(
        ["features", *parameters], gradients, expected_gradients, strict=True
    ):
        assert other.any(), name
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10, msg=name)


def test_a_norm_after_the_relu_gives_negative_features_and_one_before_it_none():
    lows = {}
    for order in ORDERS:
        head = make_head(FocalFastRCNNConvFCHead, NORM_ORDER, order, num_fc=0)
        lows[order] = head(make_features()).min()
    assert lows["norm_relu"] == 0
    assert lows["relu_norm"] < -0.1


@each("order", ORDERS)
@pytest.mark.parametrize("norm", ["", "GN", "BN"])
@each("num_conv", [0, 1, 4])
def test_parameters_begin_as_stocks_in_either_order(order, norm, num_conv):
    stock = make_head(FastRCNNConvFCHead, norm=norm, num_conv=num_conv)
    after_stock = torch.get_rng_state()
    ours = make_head(FocalFastRCNNConvFCHead, NORM_ORDER, order, norm=norm, num_conv=num_conv)
    assert type(ours) is FocalFastRCNNConvFCHead
    assert torch.equal(torch.get_rng_state(), after_stock), "later layers would differ"
    assert list(ours.state_dict()) == list(stock.state_dict())
    for name, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert [name for name, _ in ours.named_children()] == [n for n, _ in stock.named_children()]
    assert ours.output_shape == stock.output_shape
    names = {layer: name for name, layer in ours.named_children()}
    assert [names[conv] for conv in ours.conv_norm_relus] == list(names.values())[:num_conv]


@pytest.mark.parametrize(
    ("order", "norm", "num_conv"),
    [
        ("norm_relu", "GN", 2),
        ("norm_relu", "BN", 2),
        ("norm_relu", "", 2),
        ("relu_norm", "", 2),
        ("relu_norm", "GN", 0),
    ],
)
def test_stocks_order_no_norm_and_no_convolution_are_stock_bit_for_bit(order, norm, num_conv):
    stock = with_random_norms(make_head(FastRCNNConvFCHead, norm=norm, num_conv=num_conv))
    ours = make_head(FocalFastRCNNConvFCHead, NORM_ORDER, order, norm=norm, num_conv=num_conv)
    ours.load_state_dict(stock.state_dict(), strict=True)
    features = make_features()
    results = [head(features) for head in (stock, ours)]
    assert torch.equal(*results)
    gradients = [
        torch.autograd.grad(result.square().sum(), list(head.parameters()))
        for result, head in zip(results, (stock, ours), strict=True)
    ]
    for mine, other in zip(*gradients, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("by", ["key", "argument"])
def test_the_default_order_is_stocks(by):
    ours = make_head()
    if by == "argument":
        ours = FocalFastRCNNConvFCHead(
            SHAPE, conv_dims=[2 * C, 2 * C], fc_dims=[16], conv_norm="GN"
        )
    stock = make_head(FastRCNNConvFCHead)
    ours.load_state_dict(stock.state_dict(), strict=True)
    assert torch.equal(ours(make_features()), stock(make_features()))


@pytest.mark.parametrize("order", ORDERS)
def test_a_lazy_config_gives_the_same_head_by_arguments(order):
    torch.manual_seed(0)
    lazy = FocalFastRCNNConvFCHead(
        SHAPE, conv_dims=[2 * C, 2 * C], fc_dims=[16], conv_norm="GN", norm_order=order
    )
    by_name = make_head(FocalFastRCNNConvFCHead, NORM_ORDER, order)
    assert torch.equal(lazy(make_features()), by_name(make_features()))


@pytest.mark.parametrize("order", ORDERS)
def test_no_roi_gives_no_feature_and_a_gradient(order):
    head = make_head(FocalFastRCNNConvFCHead, NORM_ORDER, order)
    result = head(make_features(num_rois=0))
    assert result.shape == (0, 16)
    result.sum().backward()
    assert not any(parameter.grad.any() for parameter in head.parameters())


@pytest.mark.parametrize("order", ["norm-relu", "", "relu"])
def test_an_illegal_order_is_an_error_that_names_its_key(order):
    with pytest.raises(ValueError, match=rf"{NORM_ORDER} must be one of .*relu_norm.*'{order}'"):
        make_head(FocalFastRCNNConvFCHead, NORM_ORDER, order)


def test_a_detector_trains_in_both_orders_and_its_losses_differ_by_no_other_thing():
    opts = [*STOCK, "MODEL.ROI_BOX_HEAD.NUM_CONV", 1, "MODEL.ROI_BOX_HEAD.CONV_DIM", C]
    opts += ["MODEL.ROI_BOX_HEAD.NORM", "GN", "MODEL.ROI_BOX_HEAD.NAME"]
    results = {}
    for order in ("stock", *ORDERS):
        head = "FastRCNNConvFCHead" if order == "stock" else "FocalFastRCNNConvFCHead"
        extra = [] if order == "stock" else [NORM_ORDER, order]
        model = tiny_rcnn(*opts, head, *extra)
        torch.manual_seed(1)  # for the sampling of anchors and RoIs
        results[order] = gradients_of(model, toy_batch())
    (stock, stock_gradients), (same, _), (other, other_gradients) = results.values()
    for key, loss in stock.items():
        assert torch.equal(same[key], loss), key
        assert torch.equal(other[key], loss) is key.startswith("loss_rpn"), key
    assert set(other_gradients) == set(stock_gradients)
