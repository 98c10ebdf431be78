"""Contract of every registered box loss."""

import functools
import inspect
import re

import numpy as np
import pytest
import torch

from focal_plugin import get_cfg, losses
from focal_plugin.losses import BOX_LOSS_REGISTRY, build_box_loss
from focal_plugin.losses.build import STOCK_BOX_LOSSES

from .box_regimes import BOX_LOSS_CLASSES, box_pair, delta_pair

NAMES = sorted(BOX_LOSS_CLASSES)
ON_BOXES = {"IoULoss", "GIoULoss", "DIoULoss", "CIoULoss"}
ILLEGAL = [
    ("alpha", 0.0),
    ("alpha", float("nan")),
    ("gamma", -1.0),
    ("gamma", float("inf")),
    ("beta", -0.1),
    ("beta", float("inf")),
    ("delta", 0.0),
    ("mu", 0.0),
    ("bins", 0),
    ("bins", 2.5),
    ("momentum", 1.0),
    ("momentum", -0.1),
]


def function_of(name):
    """Map `SmoothL1Loss` to `smooth_l1_loss`, and `GIoULoss` to `giou_loss`."""
    words = name.replace("IoU", "iou").replace("GHM", "Ghm")
    return getattr(losses, re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", words).lower())


def pair_of(name, **kwargs):
    return box_pair(**kwargs) if name in ON_BOXES else delta_pair(**kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_the_module_equals_the_function_of_its_name(name):
    pred, target = pair_of(name)
    module, function = BOX_LOSS_CLASSES[name](), function_of(name)
    torch.testing.assert_close(module(pred, target), function(pred, target))


@pytest.mark.parametrize("name", NAMES)
def test_module_and_function_have_the_same_options_and_defaults(name):
    module_options = inspect.signature(BOX_LOSS_CLASSES[name].__init__).parameters
    options = {
        option: parameter.default
        for option, parameter in inspect.signature(function_of(name)).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert {option: module_options[option].default for option in options} == options


@pytest.mark.parametrize("name", NAMES)
def test_the_attribute_says_what_it_compares(name):
    assert BOX_LOSS_CLASSES[name].on_boxes == (name in ON_BOXES)


@pytest.mark.parametrize("name", NAMES)
def test_the_sum_of_per_box_is_the_loss(name):
    loss = BOX_LOSS_CLASSES[name]()
    pred, target = pair_of(name)
    per_box = loss.per_box(pred, target)
    assert per_box.shape == (len(pred),)
    torch.testing.assert_close(per_box.sum(), loss(pred, target))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_boxes_together_is_the_sum_of_their_losses_unless_normalized(name):
    pred, target = pair_of(name, num_boxes=40)
    function = function_of(name)
    parts = sum(function(pred[part], target[part]) for part in torch.arange(40).split(7))
    whole = function(pred, target)
    is_sum = torch.allclose(parts, whole, rtol=1e-5)
    assert is_sum != BOX_LOSS_CLASSES[name].own_normalizer


@pytest.mark.parametrize("name", NAMES)
def test_no_error_is_no_loss(name):
    _, target = pair_of(name)
    assert BOX_LOSS_CLASSES[name]()(target.clone(), target).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_against_the_gradient_lowers_it(name):
    pred, target = pair_of(name)
    loss = function_of(name)
    before = loss(pred, target)
    (gradient,) = torch.autograd.grad(before, pred)
    step = 1e-3 / gradient.abs().max()
    assert loss(pred - step * gradient, target) < before


@pytest.mark.parametrize("name", NAMES)
def test_no_boxes_give_a_differentiable_zero(name):
    pred = torch.zeros(0, 4, requires_grad=True)
    value = BOX_LOSS_CLASSES[name]()(pred, torch.zeros(0, 4))
    value.backward()
    assert value.item() == 0
    assert value.dtype == torch.float32
    assert pred.grad.shape == (0, 4)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_finite_for_small_and_large_errors(name):
    first, target = pair_of(name)
    for magnitude in (1e-6, 1.0, 1e4):
        pred = (target + magnitude * (first - target)).detach()
        if name in ON_BOXES:  # the corners of a box are ordered
            pred = torch.cat(torch.stack(pred.split(2, dim=1)).sort(dim=0).values.unbind(), dim=1)
        pred.requires_grad_()
        value = BOX_LOSS_CLASSES[name]()(pred, target)
        value.backward()
        assert value.isfinite(), magnitude
        assert pred.grad.isfinite().all(), magnitude


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_in_float32_out(name, dtype):
    pred, target = pair_of(name, dtype=dtype)
    loss = BOX_LOSS_CLASSES[name]()
    value = loss(pred, target)
    value.backward()
    assert value.dtype == torch.float32
    assert pred.grad.dtype == dtype
    torch.testing.assert_close(value, loss(pred.detach().float(), target.float()))


@pytest.mark.parametrize("name", NAMES)
def test_an_upstream_gradient_scales_the_gradient(name):
    pred, target = pair_of(name)
    (once,) = torch.autograd.grad(function_of(name)(pred, target), pred)
    (thrice,) = torch.autograd.grad(3 * function_of(name)(pred, target), pred)
    torch.testing.assert_close(thrice, 3 * once)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_not_modified(name):
    pred, target = pair_of(name)
    pred_before, target_before = pred.detach().clone(), target.clone()
    BOX_LOSS_CLASSES[name]()(pred, target).backward()
    assert torch.equal(pred, pred_before)
    assert torch.equal(target, target_before)


@pytest.mark.parametrize("name", NAMES)
def test_mismatched_shapes_are_an_error(name):
    for pred, target in (((3, 4), (2, 4)), ((3, 5), (3, 5)), ((4,), (4,))):
        with pytest.raises(ValueError, match=r"\(V, 4\)"):
            BOX_LOSS_CLASSES[name]()(torch.zeros(pred), torch.zeros(target))


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_read_from_its_key(name):
    cfg = get_cfg()
    cfg.MODEL.FOCAL.BOX_LOSS.NAME = name
    expected = {}
    for option, key in BOX_LOSS_CLASSES[name].config_keys.items():
        node, _, leaf = key.rpartition(".")
        node = functools.reduce(getattr, node.split("."), cfg)
        expected[option] = node[leaf] = type(node[leaf])(node[leaf] * 0.75)
    loss = build_box_loss(cfg)
    assert type(loss) is BOX_LOSS_REGISTRY.get(name)
    assert {option: getattr(loss, option) for option in expected} == expected


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        (name, option, value)
        for name in NAMES
        for option, value in ILLEGAL
        if option in BOX_LOSS_CLASSES[name].config_keys
    ],
)
def test_an_illegal_option_is_refused_by_function_module_and_config(name, option, value):
    if option in inspect.signature(function_of(name)).parameters:
        with pytest.raises(ValueError, match=option):
            function_of(name)(*pair_of(name), **{option: value})
    with pytest.raises(ValueError, match=option):
        BOX_LOSS_CLASSES[name](**{option: value})
    key = BOX_LOSS_CLASSES[name].config_keys[option]
    cfg = get_cfg()
    cfg.MODEL.FOCAL.BOX_LOSS.NAME = name
    node, _, leaf = key.rpartition(".")
    functools.reduce(getattr, node.split("."), cfg)[leaf] = value
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        build_box_loss(cfg)


OPTIONS = [(name, option) for name in NAMES for option in BOX_LOSS_CLASSES[name].config_keys]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_number_of_any_library_is_the_number(name, option):
    default = inspect.signature(BOX_LOSS_CLASSES[name].__init__).parameters[option].default
    number = type(default)(default * 0.75)
    for convert in (np.array, torch.tensor, np.int64 if isinstance(number, int) else np.float64):
        loss = BOX_LOSS_CLASSES[name](**{option: convert(number)})
        assert getattr(loss, option) == pytest.approx(number)
        assert type(getattr(loss, option)) is type(number)
        expected = BOX_LOSS_CLASSES[name](**{option: number})(*pair_of(name))
        torch.testing.assert_close(loss(*pair_of(name)), expected)
        if option in inspect.signature(function_of(name)).parameters:
            given = function_of(name)(*pair_of(name), **{option: convert(number)})
            torch.testing.assert_close(given, expected)
    for value in ([0.5], torch.tensor([0.5]), "1", True, torch.tensor(0.5, requires_grad=True)):
        with pytest.raises(ValueError, match=f"^{option} must be "):
            BOX_LOSS_CLASSES[name](**{option: value})


@pytest.mark.parametrize(("stock", "name"), STOCK_BOX_LOSSES.items())
def test_without_a_name_detectron2s_own_key_names_the_loss(stock, name):
    cfg = get_cfg()
    cfg.MODEL.RETINANET.BBOX_REG_LOSS_TYPE = stock
    assert type(build_box_loss(cfg)).__name__ == name


def test_an_unknown_loss_is_an_error_that_lists_the_registered_ones():
    cfg = get_cfg()
    cfg.MODEL.FOCAL.BOX_LOSS.NAME = "Hubert"
    with pytest.raises(KeyError, match=r"MODEL\.FOCAL\.BOX_LOSS\.NAME.*HuberLoss"):
        build_box_loss(cfg)
