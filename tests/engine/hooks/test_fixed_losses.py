"""Losses on fixed images and the balance of their gradients, against backward passes by hand."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from focal_plugin.engine.hooks import fixed_losses
from focal_plugin.engine.hooks.fixed_anchors import take_snapshots
from focal_plugin.engine.hooks.fixed_images import measuring
from focal_plugin.engine.hooks.fixed_losses import TOTAL, measure_losses, shared_parts

from ...each import each
from ...modeling.toy import tiny_model, toy_batch, toy_cfg
from ...modeling.toy_rcnn import STOCK, tiny_rcnn

IMAGES = [*toy_batch(), *toy_batch(1)]
GHM = ("MODEL.FOCAL.CLS_LOSS.NAME", "GHMLoss", "MODEL.FOCAL.CLS_LOSS.GHM_MOMENTUM", 0.5)
EQUAL_GRADIENT = ("MODEL.FOCAL.BALANCE.NAME", "equal_gradient")
ROI_LOSS = ("MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME", "SoftmaxCrossEntropyLoss")
CASCADE = (
    "MODEL.ROI_HEADS.NAME", "FocalCascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True,
)  # fmt: skip


def balance_of(model, images=IMAGES, batch_size=3):
    return measure_losses(model, images, batch_size=batch_size, with_balance=True).balance


def norm_by_hand(model, modules, loss, images=IMAGES, batch_size=3, *, of_input=False):
    """Return a norm from `backward`, with copies of the features in place of those of modules."""
    squares = []
    for start in range(0, len(images), batch_size):
        copies = []

        def cloned(features, into=copies):
            if isinstance(features, list):
                return [cloned(x) for x in features]
            into.append(features.detach().clone().requires_grad_())
            return into[-1]

        def of_output(_module, _args, output, cloned=cloned):
            return cloned(output)

        def before(_module, args, cloned=cloned):
            return (cloned(args[0]), *args[1:])

        handles = [
            m.register_forward_pre_hook(before) if of_input else m.register_forward_hook(of_output)
            for m in modules
        ]
        with measuring(model):
            losses = model(images[start : start + batch_size])
            sum(x for name, x in losses.items() if name.startswith(loss)).backward()
        for handle in handles:
            handle.remove()
        gradients = [x.grad.double() for x in copies if x.grad is not None]
        squares.append(sum(x.square().sum().item() for x in gradients))
    model.zero_grad()
    return math.sqrt(sum(squares) / len(squares))


def test_the_norms_of_a_retinanet_are_those_at_the_input_of_its_head():
    model = tiny_model()
    found = balance_of(model)
    assert list(found) == ["retinanet"]
    of_cls, of_box = (
        norm_by_hand(model, [model.head], loss, of_input=True)
        for loss in ("loss_cls", "loss_box_reg")
    )
    assert found["retinanet"].cls == pytest.approx(of_cls, rel=1e-4)
    assert found["retinanet"].box == pytest.approx(of_box, rel=1e-4)
    assert found["retinanet"].ratio == pytest.approx(of_cls / of_box, rel=1e-4)


def test_a_shared_tower_is_measured_at_its_output():
    model = tiny_model("MODEL.FOCAL.HEAD.NAME", "SharedTowerRetinaNetHead")
    of_cls = norm_by_hand(model, [model.head.cls_subnet], "loss_cls")
    assert balance_of(model)["retinanet"].cls == pytest.approx(of_cls, rel=1e-4)


@each("opts", [(), STOCK, CASCADE])
def test_an_rcnn_is_measured_at_the_convolution_of_the_rpn_and_behind_the_box_head(opts):
    model = tiny_rcnn(*opts)
    found = balance_of(model)
    assert list(found) == ["rpn", "roi_heads"]
    predictor = model.roi_heads.box_predictor
    stages = [*predictor] if isinstance(predictor, torch.nn.ModuleList) else [predictor]
    assert len(stages) == (3 if opts == CASCADE else 1)
    conv = [model.proposal_generator.rpn_head.conv]
    for norms, modules, of_input, names in (
        (found["rpn"], conv, False, ("loss_rpn_cls", "loss_rpn_loc")),
        (found["roi_heads"], stages, True, ("loss_cls", "loss_box_reg")),
    ):
        of_cls, of_box = (norm_by_hand(model, modules, x, of_input=of_input) for x in names)
        assert norms.cls == pytest.approx(of_cls, rel=1e-4)
        assert norms.box == pytest.approx(of_box, rel=1e-4)


@each(
    ("key", "part", "build", "more", "cls", "box"),
    [
        ("MODEL.FOCAL.CLS_LOSS.WEIGHT", "retinanet", tiny_model, (), 4, 1),
        ("MODEL.FOCAL.BOX_LOSS.WEIGHT", "retinanet", tiny_model, (), 1, 4),
        ("MODEL.FOCAL.RPN.CLS_LOSS.WEIGHT", "rpn", tiny_rcnn, (), 4, 1),
        ("MODEL.RPN.LOSS_WEIGHT", "rpn", tiny_rcnn, (), 4, 4),
        ("MODEL.FOCAL.ROI_HEADS.CLS_LOSS.WEIGHT", "roi_heads", tiny_rcnn, ROI_LOSS, 4, 1),
    ],
)
def test_a_weight_of_a_loss_multiplies_its_norm_exactly(key, part, build, more, cls, box):
    plain, weighted = (balance_of(build(key, x, *more), IMAGES[:3])[part] for x in (1.0, 4.0))
    assert (weighted.cls, weighted.box) == (cls * plain.cls, box * plain.box)
    assert weighted.ratio == plain.ratio * cls / box


def test_a_balance_of_equal_gradients_has_a_ratio_of_1():
    assert balance_of(tiny_model(*EQUAL_GRADIENT), IMAGES[:3])["retinanet"].ratio == (
        pytest.approx(1, rel=1e-4)
    )


def test_the_losses_are_means_over_the_batches_of_a_step():
    model = tiny_model()
    batches = []
    for batch in (IMAGES[:4], IMAGES[4:]):
        with measuring(model), torch.no_grad():
            batches.append(model(batch))
    losses = measure_losses(model, IMAGES, batch_size=4).losses
    assert list(losses) == ["loss_cls", "loss_box_reg", TOTAL]
    for name in ("loss_cls", "loss_box_reg"):
        assert losses[name] == pytest.approx(sum(b[name].item() for b in batches) / 2)
    assert losses[TOTAL] == pytest.approx(losses["loss_cls"] + losses["loss_box_reg"])
    with_balance = measure_losses(model, IMAGES, batch_size=4, with_balance=True)
    assert with_balance.losses == pytest.approx(losses)


def test_images_of_a_batch_do_not_change_each_other():
    model = tiny_model("MODEL.FOCAL.NORMALIZER.NAME", "fixed")
    alone = [measure_losses(model, [image], batch_size=1).losses for image in IMAGES]
    together = measure_losses(model, IMAGES, batch_size=len(IMAGES)).losses
    assert together["loss_cls"] == pytest.approx(sum(x["loss_cls"] for x in alone), rel=0.02)


def test_a_loss_without_labels_has_losses_but_no_balance():
    found = measure_losses(
        tiny_model("MODEL.FOCAL.BAG_LOSS.NAME", "FreeAnchorLoss"),
        IMAGES,
        batch_size=3,
        with_balance=True,
    )
    assert found.balance == {}
    assert list(found.losses) == ["loss_positive_bag", "loss_negative_bag", TOTAL]


@each("head", ["DistributionRetinaNetHead", "CenternessRetinaNetHead"])
def test_a_head_with_more_outputs_in_training_is_measured_as_in_training(head):
    model = tiny_model("MODEL.FOCAL.HEAD.NAME", head)
    assert balance_of(model)["retinanet"].ratio > 0
    assert take_snapshots(model, IMAGES, iteration=0, batch_size=3)["retinanet"].box_divided > 0


def test_a_softmax_head_is_measured_with_the_logits_of_training():
    model = tiny_model("MODEL.FOCAL.CLS_LOSS.NAME", "SoftmaxFocalLoss")
    snapshot = take_snapshots(model, IMAGES[:3], iteration=0, batch_size=3)["retinanet"]
    losses = measure_losses(model, IMAGES[:3], batch_size=3).losses
    assert snapshot.divided == pytest.approx(losses["loss_cls"], rel=1e-5)


def test_another_model_has_no_parts():
    assert shared_parts(torch.nn.Identity()) == {}


def state_of(model):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return copy.deepcopy(
        (
            {name: (x.detach(), x.grad) for name, x in tensors.items()},
            [module.training for module in model.modules()],
            [len(module._forward_hooks) for module in model.modules()],
            [sorted(vars(module)) for module in model.modules()],
            [getattr(module, "loss_normalizer", None) for module in model.modules()],
            (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()),
        )
    )


def assert_equal_states(before, after):
    for (name, (value, gradient)), (new, new_gradient) in zip(
        before[0].items(), after[0].values(), strict=True
    ):
        assert torch.equal(value, new), name
        assert (gradient is None) == (new_gradient is None), name
        assert gradient is None or torch.equal(gradient, new_gradient), name
    assert before[1:5] == after[1:5]
    assert torch.equal(before[5][0], after[5][0])
    assert before[5][1:] == after[5][1:]


def stock_retinanet():
    torch.manual_seed(0)
    return build_model(toy_cfg("MODEL.META_ARCHITECTURE", "RetinaNet"))


MODELS = {
    "ghm": lambda: tiny_model(*GHM),
    "equal_gradient": lambda: tiny_model(*EQUAL_GRADIENT),
    "rcnn": tiny_rcnn,
    "stock_retinanet": stock_retinanet,
}


@pytest.mark.parametrize("with_balance", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_measurement_leaves_the_model_as_it_was(name, with_balance):
    model = MODELS[name]().train()
    model.backbone.bottom_up.eval()  # a frozen part
    for steps in range(2):  # before the first step, stock's normalizer does not exist
        before = state_of(model)
        found = measure_losses(model, IMAGES, batch_size=3, with_balance=with_balance)
        assert_equal_states(before, state_of(model))
        assert found.losses[TOTAL] > 0
        assert bool(found.balance) == with_balance
        if not steps:
            with EventStorage():
                sum(model(IMAGES[:3]).values()).backward()
    assert measure_losses(model, IMAGES, batch_size=3, with_balance=with_balance) == found


def test_a_failing_measurement_leaves_the_model_as_it_was(monkeypatch):
    model = tiny_model(*GHM)
    before = state_of(model)

    def fail(*args):
        raise FloatingPointError("planted")

    monkeypatch.setattr(fixed_losses, "square_of_gradient", fail)
    with pytest.raises(FloatingPointError, match="planted"):
        balance_of(model)
    assert_equal_states(before, state_of(model))


def test_a_norm_that_is_not_finite_is_none():
    model = tiny_model()
    with torch.no_grad():
        model.head.cls_score.weight.fill_(float("nan"))
    found = balance_of(model)["retinanet"]
    assert (found.cls, found.ratio) == (None, None)
    assert found.box > 0
