"""Contract of every registered classification loss."""

import copy
import functools
import inspect

import pytest
import torch

from focal_plugin import get_cfg
from focal_plugin.losses import CLS_LOSS_REGISTRY, build_cls_loss
from focal_plugin.losses.base import require_rows

from ..each import each
from .regimes import GAMMAS, LOSS_CLASSES, TOLERANCE, K, call, function_of, has_option, make
from .regimes import num_logits as num_logits_of
from .regimes import random_batch as random_batch_of

# The options of these losses matter only for a long-tailed distribution, or after some steps
LONG_TAILED = {"EqualizationLoss", "EqualizationLossV2", "EqualizedFocalLoss", "SeesawLoss"}
# Thresholds of rounding errors, which usual input does not reach
THRESHOLDS = {"eps"}

OTHER_NAMES = {"batch": "image", "sum": "mean"}

pytestmark = pytest.mark.parametrize("name", sorted(LOSS_CLASSES))


@pytest.fixture
def loss(name):
    return make(name)


@pytest.fixture
def columns(name):
    return num_logits_of(name)


@pytest.fixture
def random_batch(columns):
    return functools.partial(random_batch_of, columns=columns)


def test_the_module_equals_the_function_of_its_name(name, loss, random_batch):
    logits, labels = random_batch()
    torch.testing.assert_close(loss(logits, labels), call(name, logits, labels))


def test_the_module_hands_its_options_on_to_its_function(name, random_batch):
    parameters = inspect.signature(function_of(name)).parameters
    read = LOSS_CLASSES[name].config_keys.keys() & parameters.keys()
    options = {option: parameters[option].default for option in read - {"num_classes"}}
    logits, labels = random_batch()
    plain = call(name, logits, labels)
    for option, default in options.items():
        if isinstance(default, float):
            other = {option: _another(default)}
            expected = call(name, logits, labels, **other)
            assert expected != plain or name in LONG_TAILED or option in THRESHOLDS, option
            torch.testing.assert_close(make(name, **other)(logits, labels), expected)


def test_module_and_function_have_the_same_options_and_defaults(name, loss):
    module_options = inspect.signature(type(loss).__init__).parameters
    state = {"gradient_ratio"} if type(loss).stateful else set()  # the module accumulates it
    options = {
        option: parameter.default
        for option, parameter in inspect.signature(function_of(name)).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and option not in state
    }
    required = {option for option, default in options.items() if default is inspect._empty}
    assert required <= module_options.keys()
    for option in options.keys() - required:
        assert module_options[option].default == options[option], option


def test_the_sum_of_per_anchor_is_the_loss_where_there_are_rows(loss, random_batch):
    logits, labels = random_batch()
    if not loss.has_rows:
        with pytest.raises(NotImplementedError):
            loss.per_anchor(logits, labels)
        return
    per_anchor = loss.per_anchor(logits, labels)
    assert per_anchor.shape == labels.shape
    torch.testing.assert_close(per_anchor.sum(), loss(logits, labels))


def test_a_loss_without_rows_says_so_where_rows_are_required(name, loss):
    if loss.has_rows:
        require_rows(loss)
    else:
        with pytest.raises(ValueError, match=f"^{name} compares all logits .* turn them off"):
            require_rows(loss)


def test_leading_shape_does_not_matter(loss, random_batch):
    logits, labels = random_batch(num_anchors=60)
    folded = loss(logits.reshape(3, 20, -1), labels.reshape(3, 20))
    torch.testing.assert_close(folded, loss(logits, labels))


def test_a_single_anchor_without_a_leading_shape_works(loss, columns):
    logits, label = torch.linspace(-1, 1, columns), torch.tensor(1)
    expected = loss(logits[None], label[None])
    torch.testing.assert_close(loss.train()(logits, label), expected)


@each("magnitude", [17.0, 100.0, 1e4, 1e30])
def test_value_and_gradient_are_finite_at_extreme_logits(name, columns, magnitude):
    gammas = GAMMAS if has_option(name, "gamma") else (None,)
    if name in {"SigmoidFocalStarLoss", "EqualizedFocalLoss"}:
        gammas = GAMMAS[1:]  # its slope must be > 0, because it is a divisor
    row = torch.tensor([magnitude, -magnitude] * K)[:columns]
    labels = torch.arange(-1, K + 1).repeat_interleave(2)
    for gamma in gammas:
        logits = torch.stack([row, -row] * (K + 2)).requires_grad_()
        options = {} if gamma is None else {"gamma": gamma}
        value = call(name, logits, labels, **options)
        value.backward()
        assert value.isfinite(), gamma
        assert logits.grad.isfinite().all(), gamma


def test_no_anchors_give_a_differentiable_zero(loss, columns):
    for shape in ((0,), (2, 0)):
        logits = torch.zeros(*shape, columns, requires_grad=True)
        value = loss(logits, torch.zeros(shape, dtype=torch.int64))
        value.backward()
        assert value.item() == 0, shape
        assert value.dtype == torch.float32, shape
        assert logits.grad.shape == logits.shape


def test_ignored_anchors_give_a_loss_and_a_gradient_of_zero(loss, columns):
    logits = torch.randn(7, columns, requires_grad=True)
    value = loss(logits, torch.full((7,), -1))
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


def test_an_ignored_row_does_not_leak(loss, random_batch):
    logits, labels = random_batch()
    clean = loss(logits, labels)
    clean.backward()
    for poison in (float("nan"), float("inf")):
        poisoned = logits.detach().clone()
        poisoned[labels == -1] = poison
        poisoned.requires_grad_()
        value = loss(poisoned, labels)
        value.backward()
        torch.testing.assert_close(value, clean, rtol=0, atol=0)
        torch.testing.assert_close(poisoned.grad, logits.grad, rtol=0, atol=0)
        if loss.has_rows:
            assert (loss.per_anchor(poisoned, labels)[labels == -1] == 0).all(), poison


def test_background_differs_from_every_class_and_from_ignored(loss, columns):
    logits = torch.stack([torch.linspace(1.5, -1.0, columns), torch.linspace(-0.5, 0.5, columns)])
    labels = [torch.tensor([label, 2]) for label in (-1, 0, K - 1, K)]
    ignored, *others = (loss(logits, label) for label in labels)
    torch.testing.assert_close(ignored, loss(logits[1:], torch.tensor([2])))
    assert len({round(value.item(), 4) for value in (ignored, *others)}) == 4


def test_a_label_touches_its_own_column(loss, columns):
    logits = torch.zeros(1, columns, requires_grad=True)
    loss(logits, torch.tensor([2])).backward()
    falling = (logits.grad < 0).nonzero()[:, 1]  # the loss falls as this logit grows
    objectness = [K] if columns == K + 2 else []
    assert falling.tolist() == [2, *objectness]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_in_float32_or_float64_out(loss, dtype, random_batch):
    logits, labels = random_batch(dtype=dtype)
    value = loss(logits, labels)
    value.backward()
    assert value.dtype in {torch.float32, torch.promote_types(dtype, torch.float32)}
    assert logits.grad.dtype == dtype
    in_float32 = loss(logits.detach().float(), labels)
    assert in_float32.dtype == torch.float32
    torch.testing.assert_close(value.float(), in_float32, **TOLERANCE)


def test_a_loss_scale_applies_before_half_precision_is_rounded(loss, random_batch):
    logits, labels = random_batch(dtype=torch.float16, scale=1.0)
    wide = logits.detach().float().requires_grad_()
    half, full = (
        torch.autograd.grad(loss(x, labels) * 1e-6 * 65536, x)[0].float() for x in (logits, wide)
    )
    torch.testing.assert_close(half, full, rtol=0.51 * 2**-10, atol=0.51 * 2**-24)


UNSIGNED = [torch.uint8, torch.uint16, torch.uint32, torch.uint64]


@each("dtype", [torch.int8, torch.int16, torch.int32, *UNSIGNED])
def test_labels_of_any_integer_dtype(loss, random_batch, dtype):
    logits, labels = random_batch()
    if dtype in UNSIGNED:
        labels = labels.clamp(min=0)
    expected, given = (copy.deepcopy(loss).train() for _ in range(2))
    torch.testing.assert_close(
        given(logits, labels.to(dtype)), expected(logits, labels), rtol=0, atol=0
    )


@each("dtype", UNSIGNED)
def test_a_minus_one_in_an_unsigned_dtype_is_not_ignored_but_refused(loss, columns, dtype):
    """It became 255 or more."""
    labels = torch.tensor([0, -1, 1]).to(dtype)
    with pytest.raises(ValueError, match=rf"labels must be in -1\.\.{K} .*got 0\.\.\d+$"):
        loss(torch.zeros(3, columns), labels)


def test_an_upstream_gradient_scales_the_gradient(loss, random_batch):
    logits, labels = random_batch()
    (once,) = torch.autograd.grad(loss(logits, labels), logits)
    (thrice,) = torch.autograd.grad(3 * loss(logits, labels), logits)
    torch.testing.assert_close(thrice, 3 * once)


def test_inputs_are_not_modified(loss, random_batch):
    logits, labels = random_batch()
    logits_before, labels_before = logits.detach().clone(), labels.clone()
    loss(logits, labels).backward()
    assert torch.equal(logits, logits_before)
    assert torch.equal(labels, labels_before)


def test_a_label_out_of_range_is_an_error_that_states_the_range(loss, columns):
    for labels in ([-2, 0, 0], [0, 0, K + 1]):
        with pytest.raises(ValueError, match=rf"-1\.\.{K}"):
            loss(torch.zeros(3, columns), torch.tensor(labels))


def test_mismatched_shapes_are_an_error(loss, columns):
    with pytest.raises(ValueError, match=rf"\(4, {columns}\) and \(3,\)"):
        loss(torch.zeros(4, columns), torch.zeros(3, dtype=torch.int64))


@each("dtype", [torch.float32, torch.float16, torch.complex64, torch.bool])
def test_labels_that_are_not_integers_are_an_error(loss, columns, dtype):
    with pytest.raises(ValueError, match=f"labels must be integers, got {dtype}"):
        loss(torch.zeros(3, columns), torch.zeros(3, dtype=dtype))


def test_every_option_is_read_from_its_key(name):
    cfg = get_cfg()
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = name
    cfg.MODEL.RETINANET.NUM_CLASSES = 2  # as many as in a list of _another
    expected = {}
    for option, key in LOSS_CLASSES[name].config_keys.items():
        node, _, leaf = key.rpartition(".")
        node = functools.reduce(getattr, node.split("."), cfg)
        expected[option] = node[leaf] = _another(node[leaf])
    loss = build_cls_loss(cfg)
    assert type(loss).__name__ == name
    for option, value in expected.items():
        read = getattr(loss, option)
        assert (read.tolist() if isinstance(read, torch.Tensor) else read) == value, option


def _another(value):
    """Return another value that is legal wherever the first one is."""
    if isinstance(value, str):
        return OTHER_NAMES[value]
    if isinstance(value, list):
        return [0.5, 1.0]
    if isinstance(value, float) and value == 0:
        return 0.25
    return type(value)(value * 0.75)


def test_the_registry_finds_it(name):
    assert CLS_LOSS_REGISTRY.get(name) is LOSS_CLASSES[name]
