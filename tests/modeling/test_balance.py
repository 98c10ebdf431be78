"""Balances of classification loss and box loss, alone and in detectors."""

import copy

import pytest
import torch
from detectron2.utils.events import EventStorage

from focal_plugin import get_cfg
from focal_plugin.modeling import config_scopes
from focal_plugin.modeling.balance import (
    BALANCES,
    EqualGradientBalance,
    FixedBalance,
    GuidedBalance,
    SelfBalance,
    build_balance,
)
from focal_plugin.registry import DENSE

from ..each import each
from .toy import tiny_model, toy_batch
from .toy_rcnn import tiny_rcnn

NODES = ("MODEL.FOCAL", "MODEL.FOCAL.RPN", "MODEL.FOCAL.ROI_HEADS")


def call(balance, loss_cls, loss_box, **kwargs):
    """Return both balanced losses of a step, as numbers or with their graphs."""
    losses = [torch.as_tensor(x, dtype=torch.float32) for x in (loss_cls, loss_box)]
    with EventStorage():
        return balance(*losses, **kwargs)


def losses_of(model, batch):
    with EventStorage():
        return model(batch)


def test_fixed_returns_the_losses_themselves():
    loss_cls, loss_box = torch.tensor(2.0), torch.tensor(3.0)
    assert FixedBalance()(loss_cls, loss_box) == (loss_cls, loss_box)
    assert not FixedBalance().state_dict()


def test_self_makes_the_box_loss_as_large_as_the_classification_loss():
    assert [x.item() for x in call(SelfBalance(), 6.0, 2.0)] == [6.0, 6.0]


def test_the_factor_of_self_is_a_constant():
    loss_box = torch.tensor(2.0, requires_grad=True)
    with EventStorage():
        _, balanced = SelfBalance()(torch.tensor(6.0, requires_grad=True), loss_box)
    balanced.backward()
    assert loss_box.grad == 3


def test_self_with_a_period_changes_after_it_by_the_means_of_both():
    balance = SelfBalance(period=2, init=50.0)
    boxes = [call(balance, *losses)[1].item() for losses in [(1.0, 2.0), (3.0, 6.0), (9.0, 1.0)]]
    assert boxes == pytest.approx([100.0, 300.0, (2.0 + 4.0) / 4.0])


def test_guided_makes_the_classification_loss_as_large_as_the_box_loss():
    balance = GuidedBalance(scale=2.0, iters=0)
    assert [call(balance, x, 3.0)[0].item() for x in (0.5, 60.0)] == pytest.approx([6.0, 6.0])


def test_guided_freezes_the_factor_of_its_last_step():
    balance = GuidedBalance(iters=2)
    found = [call(balance, *losses)[0].item() for losses in [(1.0, 2.0), (1.0, 5.0), (1.0, 9.0)]]
    assert found == [2.0, 5.0, 5.0]


def test_guided_learns_both_sigmas():
    balance = GuidedBalance(iters=1, learned=True)
    loss_cls, loss_box = call(balance, 4.0, 2.0)
    assert loss_cls.item() == loss_box.item() == 1.0  # both 2 / (2 * 1^2), and log(1) = 0
    (loss_cls + loss_box).backward()
    # d/ds (L / (2 s^2) + log s) = -L / s^3 + 1 / s
    assert balance.sigma_minus_one.grad.tolist() == [-1.0, -1.0]


@each("name", ["self", "guided"])
def test_a_step_without_objects_keeps_the_factor(name):
    balance = BALANCES[name]()
    call(balance, 6.0, 3.0)
    before = balance.factor.clone()
    losses = call(balance, 5.0, 0.0)
    assert balance.factor == before
    assert all(loss.isfinite() for loss in losses)


def equal_gradient_step(balance, weights=(5.0, 0.5)):
    """Return the gradients of both balanced losses with respect to the shared features."""
    features = [torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)]
    loss_cls = weights[0] * (features[0].sum() + 2 * features[1].sum())
    loss_box = weights[1] * (features[0].square().sum() + features[1].sum())
    with EventStorage():
        losses = balance(loss_cls, loss_box, shared=features)
    return [torch.autograd.grad(loss, features, retain_graph=True) for loss in losses]


def norm(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients]).norm().item()


@each("scale", [1.0, 3.0])
def test_equal_gradient_makes_both_norms_equal(scale):
    of_cls, of_box = equal_gradient_step(EqualGradientBalance(scale=scale))
    assert norm(of_cls) == pytest.approx(scale * norm(of_box), rel=1e-5)


def test_equal_gradient_measures_small_gradients_in_half_precision():
    balance = EqualGradientBalance()
    feature = torch.ones(100, dtype=torch.float16, requires_grad=True)
    losses = [(feature.float() * slope).sum() for slope in (1e-7, 3e-7)]
    with EventStorage():
        balance(*losses, shared=[feature])
    ratio = (balance.squares[1] / balance.squares[0]).sqrt().item()
    assert ratio == pytest.approx(3.0, rel=0.01)


def test_equal_gradient_averages_squares_over_steps():
    balance = EqualGradientBalance(momentum=0.75)
    equal_gradient_step(balance, (1.0, 1.0))
    first = balance.squares.clone()
    equal_gradient_step(balance, (3.0, 1.0))
    expected = 0.75 * first + 0.25 * first * torch.tensor([9.0, 1.0])
    torch.testing.assert_close(balance.squares, expected.double())


def test_equal_gradient_skips_a_step_without_a_gradient_or_with_an_infinite_one():
    balance = EqualGradientBalance()
    equal_gradient_step(balance)
    before = balance.squares.clone()
    equal_gradient_step(balance, (5.0, 0.0))
    equal_gradient_step(balance, (float("inf"), 1.0))
    assert torch.equal(balance.squares, before)


@each("name", ["self", "guided", "equal_gradient"])
def test_evaluation_changes_no_state(name):
    balance = BALANCES[name]().eval()
    before = copy.deepcopy(balance.state_dict())
    features = torch.ones(2, requires_grad=True)
    balance(features.sum(), 3 * features.sum(), shared=[features])
    assert all(torch.equal(x, before[key]) for key, x in balance.state_dict().items())


ILLEGAL = {
    "SCALE": (0.0, "guided"),
    "ITERS": (-1, "guided"),
    "PERIOD": (-1, "self"),
    "INIT": (0.0, "self"),
    "MOMENTUM": (1.0, "equal_gradient"),
}


@each("node", NODES)
@each("option", ILLEGAL)
def test_an_illegal_option_names_its_full_key(node, option):
    scope = dict(zip(NODES, (DENSE, config_scopes.RPN, config_scopes.ROI_HEADS), strict=True))
    value, name = ILLEGAL[option]
    cfg = get_cfg()
    cfg.merge_from_list([f"{node}.BALANCE.NAME", name, f"{node}.BALANCE.{option}", value])
    with pytest.raises(ValueError, match=rf"{node}\.BALANCE\.{option} "):
        build_balance(cfg, scope[node])


def all_equal_gradient():
    names = [(f"{node}.BALANCE.NAME", "equal_gradient") for node in NODES[1:]]
    options = [x for pair in names for x in pair]
    return tiny_rcnn(*options, "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME", "SoftmaxCrossEntropyLoss")


def norms_at(module, model, *names):
    """Return the norms of the losses' gradients with respect to a module's first argument."""
    found = []

    def record(_module, args, _output):
        found.extend(args[0] if isinstance(args[0], list) else [args[0]])

    handle = module.register_forward_hook(record)
    losses = losses_of(model, toy_batch())
    handle.remove()
    return [
        norm(torch.autograd.grad(losses[name], found, retain_graph=True, materialize_grads=True))
        for name in names
    ]


def test_a_retinanet_has_equal_gradients_at_the_input_of_its_head():
    model = tiny_model("MODEL.FOCAL.BALANCE.NAME", "equal_gradient")
    of_cls, of_box = norms_at(model.head, model, "loss_cls", "loss_box_reg")
    assert of_cls == pytest.approx(of_box, rel=1e-4)


def test_a_shared_tower_has_equal_gradients_at_its_output():
    name = ("MODEL.FOCAL.HEAD.NAME", "SharedTowerRetinaNetHead")
    model = tiny_model("MODEL.FOCAL.BALANCE.NAME", "equal_gradient", *name)
    losses_of(model, toy_batch())
    assert (model.balance.squares > 0).all()
    assert model.shared_features._module is model.head.cls_subnet


def test_rpn_and_box_head_have_equal_gradients_at_their_last_shared_features():
    model = all_equal_gradient()
    predictor = model.roi_heads.box_predictor
    of_cls, of_box = norms_at(predictor, model, "loss_cls", "loss_box_reg")
    assert of_cls == pytest.approx(of_box, rel=1e-4)
    rpn = all_equal_gradient()
    head = rpn.proposal_generator.rpn_head
    of_cls, of_box = norms_at(head.objectness_logits, rpn, "loss_rpn_cls", "loss_rpn_loc")
    assert of_cls == pytest.approx(of_box, rel=1e-4)


def test_the_weights_of_the_losses_multiply_the_balanced_ones():
    opts = ("MODEL.FOCAL.BALANCE.NAME", "self", "MODEL.FOCAL.BOX_LOSS.WEIGHT", 3.0)
    losses = losses_of(tiny_model(*opts), toy_batch())
    assert losses["loss_box_reg"].item() == pytest.approx(3 * losses["loss_cls"].item())


def test_a_balance_of_the_box_head_requires_a_loss_by_name():
    with pytest.raises(ValueError, match=r"ROI_HEADS\.BALANCE\.NAME requires a loss in"):
        tiny_rcnn("MODEL.FOCAL.ROI_HEADS.BALANCE.NAME", "guided")


def test_hooks_exist_in_training_mode_only():
    model = all_equal_gradient()

    def hooks():
        return sum(len(module._forward_hooks) for module in model.modules())

    assert hooks() == 2
    model.eval()
    assert hooks() == 0
    model.train()
    assert hooks() == 2


def test_a_copy_of_a_detector_records_its_own_features():
    model = tiny_model("MODEL.FOCAL.BALANCE.NAME", "equal_gradient")
    losses_of(copy.deepcopy(model), toy_batch())
    assert model.balance.squares.tolist() == [0.0, 0.0]


@each("weighted_by", ["score", "iou"])
def test_weighted_boxes_are_divided_by_the_sum_of_their_weights(weighted_by):
    """The mean of equal losses does not depend on the weights."""
    for model, node in ((tiny_model, NODES[0]), (tiny_rcnn, NODES[1]), (tiny_rcnn, NODES[2])):
        opts = [f"{node}.BOX_LOSS.WEIGHTED_BY", weighted_by]
        if node == NODES[2]:
            opts += [f"{node}.CLS_LOSS.NAME", "SoftmaxCrossEntropyLoss"]
        built = model(*opts)
        part = built
        if node != NODES[0]:
            part = built.proposal_generator if node == NODES[1] else built.roi_heads.box_predictor
        part.box_loss.per_box = lambda pred, target: pred.new_full((len(pred),), 0.25)
        losses = losses_of(built, toy_batch())
        name = "loss_rpn_loc" if node == NODES[1] else "loss_box_reg"
        assert losses[name].item() == pytest.approx(0.25), node


@each("node", [NODES[0], NODES[2]])
def test_weights_of_boxes_are_refused_where_the_loss_is_already_normalized(node):
    cls_loss = (f"{node}.CLS_LOSS.NAME", "SoftmaxCrossEntropyLoss") if node == NODES[2] else ()
    opts = (f"{node}.BOX_LOSS.NAME", "GHMBoxLoss", f"{node}.BOX_LOSS.WEIGHTED_BY", "iou")
    build = tiny_rcnn if node == NODES[2] else tiny_model
    with pytest.raises(ValueError, match=r"weighted_by must be empty, because GHMBoxLoss"):
        build(*opts, *cls_loss)


def test_boxes_weigh_by_their_largest_probability():
    model = tiny_model("MODEL.FOCAL.BOX_LOSS.WEIGHTED_BY", "score")
    seen = []
    model.observer = seen.append
    losses = losses_of(model, toy_batch())
    (step,) = seen
    scores = torch.cat(step.logits, dim=1)[step.boxed].sigmoid().amax(dim=1)
    per_box = model.box_loss.per_box(*step.box_pairs)
    expected = (scores * per_box).sum() / scores.sum()
    torch.testing.assert_close(losses["loss_box_reg"], expected)
