"""RPN heads: equality with stock at the default keys, each key, and a softmax as a sigmoid."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead, build_rpn_head
from torch import nn
from torch.nn import functional as F

from focal_plugin import get_cfg
from focal_plugin.modeling.rpn_heads import PairedObjectness, PriorRPNHead, SoftmaxRPNHead

from ..each import each
from .toy import gradients_of, toy_batch

A, C, LEVELS = 3, 32, 3
SHAPES = [ShapeSpec(channels=C, stride=8 * 2**level) for level in range(LEVELS)]
HEADS = [PriorRPNHead, SoftmaxRPNHead]
CONV_DIMS = [[-1], [-1, 64]]


def rcnn_cfg(*opts):
    """Build a Faster R-CNN on a backbone with very few channels."""
    cfg = get_cfg()
    levels = ["p3", "p4", "p5"]
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.BACKBONE.NAME = "build_small_resnet_fpn_backbone"
    cfg.MODEL.FOCAL.SMALL_RESNET.WIDTHS = [8, 12, 16, 24]
    cfg.MODEL.FOCAL.FPN.TOP_BLOCK = ""
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = C
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = levels
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128]]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(list(opts))
    return cfg


def make_head(head, *opts, seed=0):
    """Build the head by name, like Detectron2."""
    torch.manual_seed(seed)
    return build_rpn_head(rcnn_cfg("MODEL.RPN.HEAD_NAME", head.__name__, *opts), SHAPES)


def make_features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(7, 9), (4, 4), (1, 2)]
    return [torch.randn(2, C, *size, generator=generator) for size in sizes]


def assert_same_outputs(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) == len(other) == LEVELS
        assert all(torch.equal(x, y) for x, y in zip(mine, other, strict=True))


# Stock at the default keys


@pytest.mark.parametrize("conv_dims", CONV_DIMS)
def test_default_is_stock_in_keys_initial_values_and_outputs(conv_dims):
    opts = ["MODEL.RPN.CONV_DIMS", conv_dims]
    ours, stock = make_head(PriorRPNHead, *opts), make_head(StandardRPNHead, *opts)
    assert type(ours) is PriorRPNHead
    assert list(ours.state_dict()) == list(stock.state_dict())
    for name, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert not torch.signbit(ours.objectness_logits.bias).any()
    assert_same_outputs(ours(make_features()), stock(make_features()))


def test_heads_draw_as_many_random_numbers_as_stock():
    """Later layers, such as the RoI heads, therefore start with stock's values too."""
    states = []
    for head in (StandardRPNHead, *HEADS):
        make_head(head)
        states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)


@pytest.mark.parametrize("head", HEADS)
@each("conv_dims", CONV_DIMS)
@pytest.mark.parametrize("norm", ["", "GN"])
def test_the_shared_layers_start_with_stocks_values_for_all_keys(head, conv_dims, norm):
    opts = ["MODEL.RPN.CONV_DIMS", conv_dims]
    stock = make_head(StandardRPNHead, *opts).state_dict()
    keys = ["MODEL.FOCAL.RPN.NORM", norm, "MODEL.FOCAL.RPN.PRIOR_PROB", 0.01]
    ours = make_head(head, *opts, *keys).state_dict()
    same = [name for name in stock if not name.startswith("objectness_logits")]
    if norm:
        same = [name for name in same if not (name.startswith("conv") and name.endswith("bias"))]
    assert {name.split(".")[0] for name in same} == {"conv", "anchor_deltas"}
    for name in same:
        assert torch.equal(ours[name], stock[name]), name


def test_the_weights_of_a_stock_head_load_strictly():
    stock = make_head(StandardRPNHead, seed=1)
    ours = make_head(PriorRPNHead, "MODEL.FOCAL.RPN.PRIOR_PROB", 0.01)
    ours.load_state_dict(stock.state_dict(), strict=True)
    assert_same_outputs(ours(make_features()), stock(make_features()))


# Prior and norm


@pytest.mark.parametrize("head", HEADS)
@each("prior_prob", [1e-4, 0.01, 0.5, 0.9])
def test_a_new_head_predicts_the_prior_where_features_are_zero(head, prior_prob):
    head = make_head(head, "MODEL.FOCAL.RPN.PRIOR_PROB", prior_prob)
    logits, _ = head([torch.zeros(1, C, 2, 2)])
    expected = torch.full((1, A, 2, 2), prior_prob)
    torch.testing.assert_close(logits[0].sigmoid(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("head", HEADS)
@each("prior_prob", [0.0, 1.0, -0.1, math.nan])
def test_an_illegal_prior_is_an_error_that_names_its_key(head, prior_prob):
    message = rf"MODEL\.FOCAL\.RPN\.PRIOR_PROB must be in \(0, 1\), got {prior_prob}"
    with pytest.raises(ValueError, match=message):
        make_head(head, "MODEL.FOCAL.RPN.PRIOR_PROB", prior_prob)


@pytest.mark.parametrize("head", HEADS)
def test_an_unknown_norm_is_an_error_that_names_its_key(head):
    with pytest.raises(ValueError, match=r"MODEL\.FOCAL\.RPN\.NORM must be .*, got 'Norm'"):
        make_head(head, "MODEL.FOCAL.RPN.NORM", "Norm")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("conv_dims", CONV_DIMS)
def test_a_norm_is_between_each_convolution_without_bias_and_its_relu(head, conv_dims):
    """Compute the normalized map from the weights only."""
    head = make_head(head, "MODEL.RPN.CONV_DIMS", conv_dims, "MODEL.FOCAL.RPN.NORM", "GN")
    hidden = features = make_features()[0]
    convs = [head.conv] if len(conv_dims) == 1 else list(head.conv)
    for conv in convs:
        nn.init.normal_(conv.norm.weight)
        nn.init.normal_(conv.norm.bias)
        assert conv.bias is None
        hidden = F.conv2d(hidden, conv.weight, padding=1)
        hidden = F.group_norm(hidden, 32, conv.norm.weight, conv.norm.bias, conv.norm.eps).relu()
    torch.testing.assert_close(head.conv(features), hidden)
    logits, deltas = head([features])
    assert torch.equal(logits[0], head.objectness_logits(head.conv(features)))
    assert torch.equal(deltas[0], head.anchor_deltas(head.conv(features)))


@pytest.mark.parametrize(
    ("norm", "kind"),
    [("GN", nn.GroupNorm), ("BN", nn.BatchNorm2d), ("SyncBN", nn.SyncBatchNorm)],
)
def test_the_key_names_the_norm(norm, kind):
    assert type(make_head(PriorRPNHead, "MODEL.FOCAL.RPN.NORM", norm).conv.norm) is kind


# Softmax


def make_paired(prior_prob=0.5):
    """Return a head in double precision with random biases, its features and its pairs."""
    torch.manual_seed(1)
    paired = PairedObjectness(C, num_anchors=A, prior_prob=prior_prob).double()
    nn.init.normal_(paired.weight)
    nn.init.normal_(paired.bias)
    features = torch.randn(2, C, 4, 5).double()
    pairs = F.conv2d(features, paired.weight, paired.bias).view(2, A, 2, 4, 5)
    return paired, features, pairs


def test_the_sigmoid_of_the_difference_is_the_softmax_of_each_anchors_pair():
    paired, features, pairs = make_paired()
    torch.testing.assert_close(
        paired(features).sigmoid(), pairs.softmax(2)[:, :, 1], rtol=1e-14, atol=1e-15
    )


def test_its_binary_cross_entropy_is_the_softmax_cross_entropy_in_value_and_gradient():
    """The gradient of the pair is (-g, g), where g is that of the difference."""
    paired, features, _ = make_paired()
    labels = torch.randint(0, 2, (2, A, 4, 5))
    difference = paired(features).detach().requires_grad_()
    pairs = F.conv2d(features, paired.weight, paired.bias).view(2, A, 2, 4, 5)
    pairs = pairs.detach().requires_grad_()

    binary = F.binary_cross_entropy_with_logits(difference, labels.double(), reduction="none")
    softmax = F.cross_entropy(pairs.transpose(1, 2), labels, reduction="none")
    torch.testing.assert_close(binary, softmax, rtol=1e-13, atol=1e-14)

    (g,) = torch.autograd.grad(binary.sum(), difference)
    (of_pairs,) = torch.autograd.grad(softmax.sum(), pairs)
    expected = torch.stack([-g, g], dim=2)
    torch.testing.assert_close(of_pairs, expected, rtol=1e-13, atol=1e-14)


def test_the_layer_gets_the_gradients_of_the_softmax_cross_entropy():
    paired, features, pairs = make_paired()
    labels = torch.randint(0, 2, (2, A, 4, 5))
    softmax = F.cross_entropy(pairs.transpose(1, 2), labels, reduction="sum")
    binary = F.binary_cross_entropy_with_logits(paired(features), labels.double(), reduction="sum")
    parameters = [paired.weight, paired.bias]
    for mine, reference in zip(
        torch.autograd.grad(binary, parameters),
        torch.autograd.grad(softmax, parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


def test_the_prior_is_on_the_background_logit():
    head = make_head(SoftmaxRPNHead, "MODEL.FOCAL.RPN.PRIOR_PROB", 0.01)
    background, object_ = head.objectness_logits.bias.view(A, 2).T
    torch.testing.assert_close(background, torch.full((A,), math.log(99.0)))
    assert (object_ == 0).all()


def test_one_step_of_sgd_moves_the_difference_twice_as_far_as_a_single_logit():
    paired, features, _ = make_paired()
    single = nn.Conv2d(C, A, 1).double()
    with torch.no_grad():
        single.weight.copy_(paired.weight[1::2] - paired.weight[0::2])
        single.bias.copy_(paired.bias[1::2] - paired.bias[0::2])
    moved = []
    for layer in (paired, single):
        before = layer(features)
        before.sigmoid().sum().backward()
        torch.optim.SGD(layer.parameters(), lr=1e-3).step()
        moved.append((layer(features) - before).detach())
    torch.testing.assert_close(moved[0], 2 * moved[1], rtol=1e-9, atol=1e-12)


def test_the_difference_begins_with_a_deviation_sqrt_2_larger():
    torch.manual_seed(0)
    weight = PairedObjectness(1000, num_anchors=50, prior_prob=0.5).weight
    difference = weight[1::2] - weight[0::2]
    assert weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert difference.std().item() == pytest.approx(0.01 * math.sqrt(2), rel=0.02)


# As a component of Faster R-CNN


@pytest.mark.parametrize("head", HEADS)
@each("conv_dims", CONV_DIMS)
@pytest.mark.parametrize("norm", ["", "GN"])
def test_every_head_gives_one_logit_and_four_deltas_an_anchor(head, conv_dims, norm):
    head = make_head(head, "MODEL.RPN.CONV_DIMS", conv_dims, "MODEL.FOCAL.RPN.NORM", norm)
    features = make_features()
    for outputs, per_anchor in zip(head(features), (1, 4), strict=True):
        for output, feature in zip(outputs, features, strict=True):
            assert output.shape == (2, A * per_anchor, *feature.shape[2:])


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("norm", ["", "GN"])
def test_a_faster_rcnn_trains_a_step_and_then_proposes(head, norm):
    torch.manual_seed(0)
    keys = ["MODEL.FOCAL.RPN.PRIOR_PROB", 0.05, "MODEL.FOCAL.RPN.NORM", norm]
    model = build_model(rcnn_cfg("MODEL.RPN.HEAD_NAME", head.__name__, *keys))
    rpn_head = model.proposal_generator.rpn_head
    assert type(rpn_head) is head
    start = {name: p.detach().clone() for name, p in rpn_head.named_parameters()}
    losses, gradients = gradients_of(model, toy_batch())
    assert {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"} == set(losses)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    for name, p in rpn_head.named_parameters():
        assert not torch.equal(p, start[name]), name

    model.eval()
    with torch.no_grad():
        images = model.preprocess_image(toy_batch())
        proposals, _ = model.proposal_generator(images, model.backbone(images.tensor))
    assert len(proposals) == 3
    for proposal in proposals:
        assert len(proposal) > 0
        assert proposal.objectness_logits.isfinite().all()
        # sorted by their scores, as the sampling of the best requires
        assert (proposal.objectness_logits.diff() <= 0).all()
