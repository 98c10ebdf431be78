"""RetinaNet heads: equality with stock at the default keys, and the effect of each key."""

import logging
import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from torch import nn
from torch.nn import functional as F

from focal_plugin.losses import SigmoidFocalLoss
from focal_plugin.modeling.heads import (
    RETINANET_HEAD_REGISTRY,
    CosineClassifier,
    FocalRetinaNetHead,
    SharedTowerRetinaNetHead,
    SoftmaxClassifier,
    build_retinanet_head,
    scaled_cosine,
    sigmoid_logits_of_softmax,
)

from ..each import each
from .toy import NUM_CLASSES, toy_batch, toy_cfg, toy_model

A, K, C, LEVELS = 9, 4, 32, 5
SHAPES = [ShapeSpec(channels=C, stride=8 * 2**level) for level in range(LEVELS)]
SMALL = ["MODEL.RETINANET.NUM_CLASSES", K, "MODEL.RETINANET.NUM_CONVS", 2]
HEADS = [FocalRetinaNetHead, SharedTowerRetinaNetHead]
VARIANTS = [("conv", False), ("cosine", False), ("conv", True), ("cosine", True)]


def make_head(head=FocalRetinaNetHead, *opts, seed=0, **explicit):
    arguments = head.from_config(toy_cfg(*SMALL, *opts), SHAPES)
    torch.manual_seed(seed)
    return head(**{**arguments, **explicit})


def make_features(seed=0, channels=C):
    """Return non-negative features, as after an FPN and a ReLU, of a different size per level."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(7, 9), (5, 6), (4, 4), (2, 3), (1, 1)]
    return [torch.randn(2, channels, *size, generator=generator).relu() for size in sizes]


def make_classifier(kind, **options):
    torch.manual_seed(1)
    return kind(in_channels=C, num_anchors=A, num_classes=K, prior_prob=0.01, **options)


# The registry


def test_the_registry_has_detectron2s_own_head_unchanged():
    assert RETINANET_HEAD_REGISTRY.get("RetinaNetHead") is RetinaNetHead
    cfg = toy_cfg(*SMALL, "MODEL.FOCAL.HEAD.NAME", "RetinaNetHead")
    assert type(build_retinanet_head(cfg, SHAPES)) is RetinaNetHead


@pytest.mark.parametrize("head", HEADS)
def test_builds_the_head_that_the_config_names(head):
    cfg = toy_cfg(*SMALL, "MODEL.FOCAL.HEAD.NAME", head.__name__)
    assert type(build_retinanet_head(cfg, SHAPES)) is head


def test_an_unknown_head_is_an_error_that_lists_the_registered_ones():
    with pytest.raises(KeyError, match=r"MODEL\.FOCAL\.HEAD\.NAME = 'Head'.*FocalRetinaNetHead"):
        build_retinanet_head(toy_cfg("MODEL.FOCAL.HEAD.NAME", "Head"), SHAPES)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.RETINANET.PRIOR_PROB", 0.0),
        ("MODEL.RETINANET.PRIOR_PROB", 1.0),
        ("MODEL.FOCAL.HEAD.CLASSIFIER", "linear"),
        ("MODEL.FOCAL.HEAD.COSINE_SCALE", 0.0),
    ],
)
def test_an_illegal_option_is_an_error_that_names_its_key(key, value):
    with pytest.raises(ValueError, match=rf"{key} must be .*, got '?{value}"):
        build_retinanet_head(toy_cfg(*SMALL, key, value), SHAPES)


@pytest.mark.parametrize("softmax", [False, True])
def test_the_named_loss_says_whether_the_head_is_a_softmax(monkeypatch, softmax):
    monkeypatch.setattr(SigmoidFocalLoss, "softmax", softmax)
    head = build_retinanet_head(toy_cfg(*SMALL), SHAPES)
    assert head.softmax is softmax
    assert isinstance(head.cls_score, SoftmaxClassifier) is softmax


def test_a_cosine_head_has_the_scale_of_its_key():
    opts = ["MODEL.FOCAL.HEAD.CLASSIFIER", "cosine", "MODEL.FOCAL.HEAD.COSINE_SCALE", 12.5]
    assert make_head(FocalRetinaNetHead, *opts).cls_score.scale == 12.5


# A loss with other probabilities than sigmoids

GUMBEL = ["MODEL.FOCAL.CLS_LOSS.NAME", "GumbelLoss"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("classifier", ["conv", "cosine"])
def test_a_gumbel_head_returns_the_logits_of_its_probabilities_in_evaluation(head, classifier):
    head = make_head(head, *GUMBEL, classifier=classifier)
    torch.nn.init.normal_(head.cls_score.weight)
    features = make_features()
    trained, _ = head.train()(features)
    found, _ = head.eval()(features)
    for x, s in zip(trained, found, strict=True):
        p = torch.exp(-torch.exp(-x.double()))
        torch.testing.assert_close(torch.sigmoid(s.double()), p, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("classifier", ["conv", "cosine"])
def test_a_fresh_gumbel_head_predicts_the_prior(classifier):
    opts = [*GUMBEL, "MODEL.RETINANET.PRIOR_PROB", 0.02, "MODEL.FOCAL.HEAD.CLASSIFIER", classifier]
    head = toy_model(*opts).head.eval()  # the detector sets stock's weights where it can
    logits, _ = head([torch.zeros(1, head.cls_score.in_channels, 1, 1)] * LEVELS)
    torch.testing.assert_close(logits[0].sigmoid(), torch.full_like(logits[0], 0.02))


def test_a_head_that_decodes_sigmoids_is_refused():
    with pytest.raises(ValueError, match="RetinaNetHead does not decode the logits of GumbelLoss"):
        toy_model(*GUMBEL, "MODEL.FOCAL.HEAD.NAME", "RetinaNetHead")


# Stock at the default keys


@pytest.mark.parametrize("norm", ["", "GN"])
def test_default_is_stock_in_keys_initial_values_and_outputs(norm):
    opts = ["MODEL.RETINANET.NORM", norm]
    ours, stock = make_head(FocalRetinaNetHead, *opts), make_head(RetinaNetHead, *opts)
    assert list(ours.state_dict()) == list(stock.state_dict())
    for name, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    for mine, theirs in zip(ours(make_features()), stock(make_features()), strict=True):
        assert len(mine) == len(theirs) == LEVELS
        assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("classifier", "softmax"), VARIANTS)
def test_every_variant_begins_with_stocks_towers_and_box_layer(head, classifier, softmax):
    ours = make_head(head, classifier=classifier, softmax=softmax).state_dict()
    stock = make_head(RetinaNetHead).state_dict()
    same = [name for name in ours if not name.startswith("cls_score")]
    assert {name.split(".")[0] for name in same} >= {"cls_subnet", "bbox_pred"}
    for name in same:
        assert torch.equal(ours[name], stock[name]), name
    assert {"cls_score.weight", "cls_score.bias"} <= set(ours)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("classifier", "softmax"), VARIANTS)
@each("training", [True, False])
def test_every_variant_gives_k_logits_and_four_deltas_an_anchor(
    head, classifier, softmax, training
):
    features = make_features()
    head = make_head(head, classifier=classifier, softmax=softmax).train(training)
    for outputs, per_anchor in zip(head(features), (K, 4), strict=True):
        for output, feature in zip(outputs, features, strict=True):
            assert output.shape == (2, A * per_anchor, *feature.shape[2:])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("classifier", "softmax"), VARIANTS)
def test_every_parameter_gets_a_gradient(head, classifier, softmax):
    head = make_head(head, classifier=classifier, softmax=softmax)
    logits, deltas = head(make_features())
    sum(x.square().sum() for x in (*logits, *deltas)).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


# Prior


@each("prior", [0.01, 0.2])
@pytest.mark.parametrize(("classifier", "softmax"), VARIANTS)
def test_a_new_head_predicts_the_prior(prior, classifier, softmax):
    """A random filter with 256 channels has a cosine of about .02, which the scale makes .4."""
    shapes = [ShapeSpec(channels=256, stride=shape.stride) for shape in SHAPES]
    options = {"classifier": classifier, "softmax": softmax, "prior_prob": prior}
    head = make_head(input_shape=shapes, conv_dims=[256], **options).eval()
    logits, _ = head(make_features(channels=256))
    scores = torch.cat([x.unflatten(1, (A, K)).flatten(3) for x in logits], dim=3).sigmoid()
    # for a softmax, the classes share the prior: p_bg is 1 - prior
    answer = scores.sum(2).mean() if softmax else scores.mean()
    assert answer.item() == pytest.approx(prior, rel=0.3 if classifier == "cosine" else 0.02)


def test_the_softmax_bias_is_zero_for_classes_and_log_k_odds_for_the_background_behind_them():
    bias = make_classifier(SoftmaxClassifier).bias.detach().view(A, K + 1)
    assert (bias[:, :K] == 0).all()
    torch.testing.assert_close(bias[:, K], torch.full((A,), math.log(K * 99)))
    torch.testing.assert_close(bias.softmax(1)[:, K], torch.full((A,), 0.99))


# Softmax


def softmax_reference(classifier, features):
    """Compute p (N, A, K + 1, H, W) in float64, anchor by anchor, from the layer's own weights."""
    weight, bias = classifier.weight.double(), classifier.bias.double()
    logits = F.conv2d(features.double(), weight, bias, padding=1)
    return torch.stack([x.softmax(1) for x in logits.split(K + 1, dim=1)], dim=1)


def test_logits_of_training_and_a_zero_are_the_softmax_of_k_plus_one():
    classifier, features = make_classifier(SoftmaxClassifier), make_features()[0]
    nn.init.normal_(classifier.weight, std=0.5)
    z = classifier.train()(features).view(2, A, K, *features.shape[2:])
    p = torch.cat([z, torch.zeros_like(z[:, :, :1])], dim=2).softmax(2)
    torch.testing.assert_close(
        p.double(), softmax_reference(classifier, features), atol=1e-6, rtol=1e-4
    )


def test_sigmoid_of_the_logits_of_evaluation_is_the_softmax_of_k_plus_one():
    classifier, features = make_classifier(SoftmaxClassifier).eval(), make_features()[0]
    nn.init.normal_(classifier.weight, std=0.5)
    scores = classifier(features).sigmoid().view(2, A, K, *features.shape[2:])
    expected = softmax_reference(classifier, features)[:, :, :K]
    assert expected.max() > 0.9
    torch.testing.assert_close(scores.double(), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_sigmoid_logits_of_softmax_equal_their_definition_in_float64(scale):
    z = (torch.rand(500, K, generator=torch.Generator().manual_seed(0)) * 2 - 1) * scale
    z[:2] = torch.tensor([[100.0], [-100.0]])
    full = torch.cat([z, torch.zeros(len(z), 1)], dim=1).double()
    rest = full.unsqueeze(1).repeat(1, K, 1)
    rest[:, torch.arange(K), torch.arange(K)] = -math.inf
    expected = z.double() - rest.logsumexp(-1)
    logits = sigmoid_logits_of_softmax(z, dim=1)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_certain_class_has_a_finite_logit_where_the_naive_form_has_inf():
    z = torch.tensor([[100.0, -100.0]])
    p = torch.cat([z, torch.zeros(1, 1)], dim=1).softmax(1)[:, :2]
    assert torch.logit(p).isinf().all()
    # log of the other sum: exp(0) + exp(-100) for the first, exp(100) + exp(0) for the second
    torch.testing.assert_close(sigmoid_logits_of_softmax(z, dim=1), torch.tensor([[100.0, -200.0]]))


def test_sigmoid_logits_of_softmax_have_a_finite_gradient_at_a_certain_class():
    """The value of log(1 - p) is replaced for a p rounded to 1, and so must be its gradient."""
    z = torch.tensor([[100.0, -100.0], [0.0, 0.0], [30.0, 31.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(sigmoid_logits_of_softmax(z, dim=1).sum(), z)
    # 1 minus the softmax over the other class and the background; z_j is in one of the two
    expected = 1 - torch.stack([z[:, 0].sigmoid(), z[:, 1].sigmoid()], dim=1)
    torch.testing.assert_close(gradient, expected.detach(), atol=1e-5, rtol=1e-4)


def test_sigmoid_logits_of_softmax_of_one_class_are_the_logits():
    z = torch.linspace(-90, 90, 7).unsqueeze(1)
    torch.testing.assert_close(sigmoid_logits_of_softmax(z, dim=1), z)


@pytest.mark.parametrize("classifier", ["conv", "cosine"])
def test_the_stock_detector_decodes_a_softmax_head_to_its_probabilities(classifier):
    """The K + 1 columns do not shift its class indices either."""
    model = toy_model()
    shapes = [model.backbone.output_shape()[name] for name in model.head_in_features]
    arguments = FocalRetinaNetHead.from_config(toy_cfg(), shapes)
    model.head = FocalRetinaNetHead(**{**arguments, "softmax": True, "classifier": classifier})
    nn.init.normal_(model.head.cls_score.bias)
    model.eval().test_score_thresh = 0.0
    probabilities = []  # (A, K + 1, cells) per level

    def note(_, __, tower):
        logits = model.head.cls_score.score(tower)
        probabilities.append(logits[0].unflatten(0, (A, NUM_CLASSES + 1)).softmax(1).flatten(2))

    model.head.cls_subnet.register_forward_hook(note)
    with torch.no_grad():
        found = model(toy_batch()[:1])[0]["instances"]
    of_class = torch.cat(probabilities, dim=2).transpose(0, 1).flatten(1)  # (K + 1, anchors)
    distance = (of_class[found.pred_classes] - found.scores[:, None]).abs().amin(1)
    assert len(found) > 50
    assert (distance <= 1e-5 * found.scores).all()


# Cosine


def cosine_reference(features, weight, bias, scale):
    """Compute the cosine from patches that are unfolded one by one, in float64."""
    features, weight = features.double(), weight.double()
    patches = F.unfold(features, 3, padding=1)  # (N, C * 9, H * W)
    cosine = F.cosine_similarity(patches[:, None], weight.flatten(1)[None, :, :, None], dim=2)
    return (scale * cosine).view(len(features), -1, *features.shape[2:]) + bias.double().view(
        1, -1, 1, 1
    )


def test_cosine_equals_that_of_unfolded_patches_in_value_and_gradient():
    classifier = make_classifier(CosineClassifier, scale=20.0)
    features = make_features()[0].requires_grad_()
    inputs = (features, classifier.weight, classifier.bias)
    expected = cosine_reference(*inputs, scale=20.0)
    logits = classifier(features)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)
    upstream = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    gradients = torch.autograd.grad(logits, inputs, upstream)
    for mine, reference in zip(
        gradients, torch.autograd.grad(expected, inputs, upstream.double()), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-3 * reference.abs().max())


def test_cosine_logits_are_bounded_and_do_not_grow_with_the_features():
    classifier, features = make_classifier(CosineClassifier, scale=7.0), make_features()[0]
    logits = classifier(features)
    torch.testing.assert_close(classifier(1e3 * features), logits, rtol=1e-4, atol=1e-4)
    aligned = classifier.weight[:1].detach()  # a patch equal to the first filter
    assert classifier(aligned)[0, 0, 1, 1].item() == pytest.approx(
        7 + classifier.bias[0].item(), rel=1e-4
    )
    assert ((logits - classifier.bias.view(1, -1, 1, 1)).abs() <= 7.001).all()


def test_a_patch_of_zeros_scores_the_bias_and_has_a_gradient_where_the_naive_form_has_nan():
    features = torch.zeros(1, C, 3, 3, requires_grad=True)
    weight, bias = torch.ones(2, C, 3, 3), torch.tensor([0.5, -1.5])
    length = F.conv2d(features.square().sum(1, keepdim=True), torch.ones(1, 1, 3, 3), padding=1)
    naive = F.conv2d(features, weight, padding=1) / length.sqrt().clamp(min=1e-6)
    assert torch.autograd.grad(naive.sum(), features)[0].isnan().any()

    logits = scaled_cosine(features, weight, bias, 20.0)
    assert torch.equal(logits, bias.view(1, 2, 1, 1).expand(1, 2, 3, 3))
    (gradient,) = torch.autograd.grad(logits.sum(), features)
    assert gradient.isfinite().all()


def test_cosine_of_large_half_precision_features_is_float32_and_right():
    """The square of 1e3 overflows float16."""
    features = make_features()[0] * 1e3
    weight = make_classifier(CosineClassifier, scale=20.0).weight.detach()
    logits = scaled_cosine(features.half(), weight.half(), None, 20.0)
    assert logits.dtype == torch.float32
    expected = cosine_reference(features, weight, torch.zeros(A * K), 20.0)
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=0.05)


# Shared tower


def test_a_shared_tower_has_no_box_tower():
    head = make_head(SharedTowerRetinaNetHead)
    assert {name.split(".")[0] for name in head.state_dict()} == {
        "cls_subnet",
        "cls_score",
        "bbox_pred",
    }


def test_a_shared_tower_is_run_once_a_level_and_feeds_both_outputs():
    head, stock = make_head(SharedTowerRetinaNetHead), make_head(RetinaNetHead)
    towers = []
    head.cls_subnet.register_forward_hook(lambda _, __, output: towers.append(output))
    logits, deltas = head(make_features())
    assert len(towers) == LEVELS
    stock.bbox_subnet.load_state_dict(stock.cls_subnet.state_dict())
    stock_logits, stock_deltas = stock(make_features())
    assert all(torch.equal(x, y) for x, y in zip(logits, stock_logits, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(deltas, stock_deltas, strict=True))


# Batch norm


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_each_level_has_statistics_of_its_own_and_all_share_the_affine_map(norm):
    head = make_head(FocalRetinaNetHead, "MODEL.RETINANET.NORM", norm)
    names = [name for name in head.state_dict() if name.startswith("bbox_subnet.4.")]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    expected = ["weight", "bias", *(f"{i}.{x}" for i in range(LEVELS) for x in buffers)]
    assert names == [f"bbox_subnet.4.{name}" for name in expected]
    kind = nn.BatchNorm2d if norm == "BN" else nn.SyncBatchNorm
    assert all(type(level) is kind for level in head.bbox_subnet[4])


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_that_of_detectron2(training):
    opts = ["MODEL.RETINANET.NORM", "BN"]
    ours, stock = make_head(FocalRetinaNetHead, *opts), make_head(RetinaNetHead, *opts)
    for seed in (0, 1):
        ours(make_features(seed))
        stock(make_features(seed))
    assert list(ours.state_dict()) == list(stock.state_dict())
    for name, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    ours, stock = ours.train(training), stock.train(training)
    for mine, theirs in zip(ours(make_features(2)), stock(make_features(2)), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "GN", ""])
def test_detectron2_warns_of_no_shared_batch_norm(caplog, norm):
    logger = logging.getLogger(RetinaNetHead.__module__)
    logger.addHandler(caplog.handler)
    make_head(FocalRetinaNetHead, "MODEL.RETINANET.NORM", norm)
    logger.removeHandler(caplog.handler)
    assert not caplog.records


@pytest.mark.parametrize("head", HEADS)
def test_levels_stay_in_order_when_a_head_is_called_again(head):
    """The running statistics differ between levels, and repeated calls must agree."""
    head = make_head(head, "MODEL.RETINANET.NORM", "BN")
    head([x + 3 * level for level, x in enumerate(make_features())])
    head.eval()
    first, second = head(make_features()), head(make_features())
    for outputs, again in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(outputs, again, strict=True))
