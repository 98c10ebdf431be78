"""Contract of a registered loss about its options and attributes."""

import functools
import inspect
from collections import Counter, deque
from fractions import Fraction

import numpy as np
import pytest
import torch

from focal_plugin import get_cfg
from focal_plugin.checks import IllegalOptionError
from focal_plugin.losses import build_cls_loss

from ..each import each
from .regimes import LOSS_CLASSES, K, call, function_of, has_option, make, num_logits, random_batch

NAN, INF = float("nan"), float("inf")
BY_TYPE = {int: [-1], str: ["other"]}
"""Illegal values of a key that is not below: a count is not negative, and a float is not NaN."""

# Illegal values of each key, in addition to NaN. Two losses may share a key.
ILLEGAL = {
    "MODEL.RETINANET.NUM_CLASSES": [0, -1],
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": [-0.5, 1.5],
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": [-1.0, INF],
    "MODEL.FOCAL.CLS_LOSS.ALRP_DELTA": [-0.5, INF],
    "MODEL.FOCAL.CLS_LOSS.ALRP_EPS": [-1e-5, INF],
    "MODEL.FOCAL.CLS_LOSS.APE_SCALE": [-1.0, 0.0, INF],
    "MODEL.FOCAL.CLS_LOSS.APE_TOP_K": [0, -1],
    "MODEL.FOCAL.CLS_LOSS.AP_DELTA": [-0.5, INF],
    "MODEL.FOCAL.CLS_LOSS.ASL_CLIP": [-0.1, 1.0],
    "MODEL.FOCAL.CLS_LOSS.ASL_GAMMA_NEG": [-1.0, INF],
    "MODEL.FOCAL.CLS_LOSS.ASL_GAMMA_POS": [-1.0, INF],
    "MODEL.FOCAL.CLS_LOSS.FL_STAR_BETA": [INF],
    "MODEL.FOCAL.CLS_LOSS.CB_BETA": [-0.1, 1.0],
    "MODEL.FOCAL.CLS_LOSS.CLASS_ALPHA": [[0.1, 0.2, 0.3, 0.4, 1.5]],
    "MODEL.FOCAL.CLS_LOSS.DR_LAMBDA_NEG": [-0.1, 0.0, INF],
    "MODEL.FOCAL.CLS_LOSS.DR_LAMBDA_POS": [-0.1, 0.0, INF],
    "MODEL.FOCAL.CLS_LOSS.DR_MARGIN": [INF],
    "MODEL.FOCAL.CLS_LOSS.DR_SCALE": [-1.0, 0.0, INF],
    "MODEL.FOCAL.CLS_LOSS.DR_TAU": [-1.0, INF],
    "MODEL.FOCAL.CLS_LOSS.ECM_FG_BG_RATIO": [0.0, INF],
    "MODEL.FOCAL.CLS_LOSS.EFL_SCALE": [-1.0],
    "MODEL.FOCAL.CLS_LOSS.EQLV2_ALPHA": [-1.0],
    "MODEL.FOCAL.CLS_LOSS.EQLV2_GAMMA": [-1.0],
    "MODEL.FOCAL.CLS_LOSS.EQLV2_MU": [INF],
    "MODEL.FOCAL.CLS_LOSS.GHM_BINS": [0, -1],
    "MODEL.FOCAL.CLS_LOSS.GHM_MOMENTUM": [-0.1, 1.0],
    "MODEL.FOCAL.CLS_LOSS.HINGE_MARGIN": [0.0, 1.5],
    "MODEL.FOCAL.CLS_LOSS.IA_BCE_ALPHA": [-0.5, 1.5],
    "MODEL.FOCAL.CLS_LOSS.LABEL_SMOOTHING": [-0.1, 1.0],
    "MODEL.FOCAL.CLS_LOSS.MAL_ALPHA": [-0.5, 1.5],
    "MODEL.FOCAL.CLS_LOSS.MAL_GAMMA": [-1.0, INF],
    "MODEL.FOCAL.CLS_LOSS.POLY_EPSILON": [INF],
    "MODEL.FOCAL.CLS_LOSS.QFL_BETA": [-1.0, 0.5, INF],
    "MODEL.FOCAL.CLS_LOSS.RS_DELTA": [-0.5, INF],
    "MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS": [[10, -1, 5, 5, 5]],
    "MODEL.FOCAL.CLS_LOSS.SEESAW_EPS": [0.0, 1.5],
    "MODEL.FOCAL.CLS_LOSS.SEESAW_P": [-1.0, INF],
    "MODEL.FOCAL.CLS_LOSS.SEESAW_Q": [-1.0, INF],
    "MODEL.FOCAL.CLS_LOSS.SEESAW_REDUCTION": ["none"],
    "MODEL.FOCAL.CLS_LOSS.VFL_ALPHA": [-0.5, 1.5],
}
NAMES = sorted(LOSS_CLASSES)
OPTIONS = [(name, *item) for name in NAMES for item in LOSS_CLASSES[name].config_keys.items()]


def batch_for(name):
    return random_batch(columns=num_logits(name))


@pytest.mark.parametrize("name", [name for name in NAMES if LOSS_CLASSES[name].decomposes])
def test_the_sum_over_parts_is_the_loss_of_the_whole_where_it_says_so(name):
    loss = make(name)
    logits, labels = batch_for(name)
    parts = sum(loss(logits[part], labels[part]) for part in torch.arange(200).split(30))
    torch.testing.assert_close(parts, loss(logits, labels), rtol=1e-5, atol=1e-5)


def illegal_values(key):
    default = functools.reduce(lambda node, part: node[part], key.split("."), get_cfg())
    return ILLEGAL.get(key, BY_TYPE.get(type(default), [])) + [NAN] * isinstance(default, float)


def test_every_key_has_an_illegal_value():
    assert all(illegal_values(key) for _, _, key in OPTIONS)


@pytest.mark.parametrize(("name", "option", "key"), OPTIONS)
def test_an_illegal_option_is_refused_by_function_module_and_config(name, option, key):
    logits, labels = batch_for(name)
    for value in illegal_values(key):
        if has_option(name, option):  # state, such as a momentum, belongs to the module only
            with pytest.raises(ValueError, match=option):
                call(name, logits, labels, **{option: value})
        with pytest.raises(ValueError, match=option):
            make(name, **{option: value})
        cfg = get_cfg()
        cfg.merge_from_list(["MODEL.FOCAL.CLS_LOSS.NAME", name, key, value])
        with pytest.raises(ValueError, match=key.replace(".", r"\.")):
            build_cls_loss(cfg)


@pytest.mark.parametrize(
    "name", [name for name, _, key in OPTIONS if key == "MODEL.RETINANET.FOCAL_LOSS_ALPHA"]
)
def test_alpha_minus_one_is_off_as_in_detectron2(name):
    logits, labels = batch_for(name)
    off = function_of(name)(logits, labels, alpha=None)
    torch.testing.assert_close(function_of(name)(logits, labels, alpha=-1), off)


ONE_NUMBER = [np.float32, np.float64, np.array, torch.tensor, Fraction]
NUMBERS = [
    option
    for option in OPTIONS
    if option[2].split(".")[-1]
    not in {"CLASS_ALPHA", "RANKING_SCOPE", "SAMPLES_PER_CLASS", "SEESAW_REDUCTION"}
]


@pytest.mark.parametrize(("name", "option", "key"), NUMBERS)
def test_a_number_of_any_library_is_the_number(name, option, key):
    default = inspect.signature(LOSS_CLASSES[name].__init__).parameters[option].default or 0.5
    number = K if option == "num_classes" else type(default)(default * 0.75)
    types = [np.int32, np.array, torch.tensor] if isinstance(number, int) else ONE_NUMBER
    logits, labels = batch_for(name)
    expected = make(name, **{option: number})(logits, labels)
    for convert in types:
        loss = make(name, **{option: convert(number)})
        assert type(getattr(loss, option)) is type(number)
        torch.testing.assert_close(loss(logits, labels), expected)
        if has_option(name, option):
            given = call(name, logits, labels, **{option: convert(number)})
            torch.testing.assert_close(given, expected)


@pytest.mark.parametrize(("name", "option", "key"), NUMBERS)
def test_what_is_not_one_number_is_refused_by_its_name(name, option, key):
    """Three values of three classes, a text, a truth value and a parameter are not an option."""
    values = [0.25, 0.5, 0.25]
    wrong = [values, np.array(values), torch.tensor(values), "0.5", True, np.bool_(True), {0: 0.5}]
    for value in [*wrong, torch.tensor([0.25]), torch.tensor(0.5, requires_grad=True), 0.5j]:
        with pytest.raises(IllegalOptionError, match=rf"^{option} must be "):
            make(name, **{option: value})
        if has_option(name, option):
            with pytest.raises(IllegalOptionError, match=rf"^{option} must be "):
                call(name, *batch_for(name), **{option: value})


@pytest.mark.parametrize("name", ["SigmoidFocalLoss", "SoftmaxFocalLoss", "PolyFocalLoss"])
def test_several_alphas_point_to_the_option_that_has_one_for_each_class(name):
    with pytest.raises(IllegalOptionError, match=r"alpha .*Tensor of shape \(3,\); class_alpha"):
        call(name, *batch_for(name), alpha=torch.tensor([0.25, 0.5, 0.25]))


class Labeled:
    """Values with labels, in another order than the labels, like a Series of pandas."""

    def __init__(self, values):
        self.values = dict(reversed(list(enumerate(values))))

    def keys(self):
        return self.values.keys()

    def __getitem__(self, key):
        return self.values[key]

    def __iter__(self):
        return iter(self.values.values())

    def __len__(self):
        return len(self.values)


PER_CLASS = [
    (name, option, [3000.0, 1.0, 200.0, 4.0, 5.0] if option == "samples_per_class" else weights)
    for name, option, _ in OPTIONS
    for weights in [[0.25, 0.5, 1.0, 0.0, 0.75, 0.125][: num_logits(name)]]
    if option in {"class_alpha", "samples_per_class"}
]
every_per_class = pytest.mark.parametrize(("name", "option", "values"), PER_CLASS)


@every_per_class
def test_one_number_for_each_class_comes_in_any_container(name, option, values):
    logits, labels = batch_for(name)
    expected = make(name, **{option: values})(logits, labels)
    assert expected != make(name, **{option: values[::-1]})(logits, labels)
    for container in (
        tuple(values),
        np.array(values),
        np.array(values, dtype=np.float32),
        [*map(np.float32, values)],
        torch.tensor(values),
        [*torch.tensor(values)],
        deque(values),
        dict(reversed(list(enumerate(values)))),
        Counter(dict(enumerate(values))),
        {np.int64(k): torch.tensor(x) for k, x in enumerate(values)},
        Labeled(values),
    ):
        given = make(name, **{option: container})
        torch.testing.assert_close(given(logits, labels), expected, rtol=0, atol=0)
        given = call(name, logits, labels, **{option: container})
        torch.testing.assert_close(given, expected, rtol=0, atol=0)


@every_per_class
@each(
    ("keys", "problem"),
    [
        ([1, 2, 3, 4, 5, 6], "no class 0"),
        ([-1, 0, 1, 2, 3, 4], "the ignored label was counted"),
        ([0, 1, 2, 4, 5, 6], "a class without objects is absent"),
        (list("012345"), "keys of JSON"),
        (["cat", "dog", "cow", "owl", "ape", "bat"], "names"),
    ],
)
def test_a_mapping_is_refused_unless_its_keys_are_the_classes(name, option, values, keys, problem):
    with pytest.raises(IllegalOptionError, match=rf"^{option} must have the key of every class"):
        make(name, **{option: dict(zip(keys, values, strict=False))})


@every_per_class
def test_what_has_no_number_for_each_class_is_refused_by_its_name(name, option, values):
    tensor = torch.tensor(values)
    wrong = [0.25, np.float32(0.5), torch.tensor(0.5), None, "0.25", set(values), iter(values)]
    for value in [*wrong, tensor.view(1, -1), tensor.requires_grad_(), [values], dict.values({})]:
        with pytest.raises(IllegalOptionError, match=rf"^{option} must be "):
            make(name, **{option: value})
        with pytest.raises(IllegalOptionError, match=rf"^{option} must be "):
            call(name, *batch_for(name), **{option: value})


@pytest.mark.parametrize("name", [name for name in NAMES if LOSS_CLASSES[name].needs_quality])
@each("quality", [None, torch.zeros(3), torch.full((200,), 1.5), torch.full((200,), -0.1)])
def test_an_illegal_quality_is_refused(name, quality):
    with pytest.raises(ValueError, match="quality must be"):
        LOSS_CLASSES[name]()(*batch_for(name), quality=quality)


@pytest.mark.parametrize("name", [name for name in NAMES if LOSS_CLASSES[name].needs_quality])
def test_the_quality_of_a_diverged_box_shows_in_the_loss_not_in_an_error(name):
    assert LOSS_CLASSES[name]()(*batch_for(name), quality=torch.full((200,), NAN)).isnan()


@pytest.mark.parametrize("name", [name for name in NAMES if LOSS_CLASSES[name].needs_quality])
def test_the_quality_of_background_and_ignored_anchors_does_not_leak(name):
    logits, labels = batch_for(name)
    has_class = (labels >= 0) & (labels < logits.shape[1])
    poisoned = torch.where(has_class, 0.8, NAN).requires_grad_()
    loss = LOSS_CLASSES[name]()(logits, labels, quality=poisoned)
    torch.testing.assert_close(loss, make(name)(logits, labels), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(loss, poisoned)  # it is a constant


STATEFUL = [name for name in NAMES if LOSS_CLASSES[name].stateful]


@pytest.mark.parametrize("name", STATEFUL)
def test_only_a_training_step_changes_the_state(name):
    loss = make(name)
    logits, labels = batch_for(name)
    before = {key: buffer.clone() for key, buffer in loss.state_dict().items()}
    assert before
    loss(logits, labels)
    loss.train().per_anchor(logits, labels)
    assert all(torch.equal(buffer, before[key]) for key, buffer in loss.state_dict().items())
    loss(logits, labels)
    assert any(not torch.equal(buffer, before[key]) for key, buffer in loss.state_dict().items())
    assert not any(buffer.requires_grad for buffer in loss.state_dict().values())


@pytest.mark.parametrize("name", STATEFUL)
def test_the_state_dict_determines_the_next_steps(name):
    logits, labels = batch_for(name)
    trained, resumed, fresh = (make(name).train() for _ in range(3))
    trained(logits, labels)
    resumed.load_state_dict(trained.state_dict())
    others = random_batch(seed=1, scale=1.0, columns=num_logits(name))
    torch.testing.assert_close(resumed(*others), trained(*others), rtol=0, atol=0)
    assert not torch.allclose(resumed(*others), fresh.eval()(*others))
