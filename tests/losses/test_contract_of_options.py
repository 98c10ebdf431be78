"""What a registered loss promises of an option or an attribute, asked of those that have it."""

import pytest
import torch

from focal_plugin import get_cfg
from focal_plugin.losses import build_cls_loss

from .regimes import LOSS_CLASSES, function_of, has_option, random_batch

ILLEGAL = [
    ("alpha", -0.5),
    ("alpha", 1.5),
    ("alpha", float("nan")),
    ("gamma", -1.0),
    ("gamma", float("nan")),
    ("gamma", float("inf")),
    ("beta", float("inf")),
]
NAMES = sorted(LOSS_CLASSES)


@pytest.mark.parametrize("name", [name for name in NAMES if LOSS_CLASSES[name].decomposes])
def test_the_sum_over_parts_is_the_loss_of_the_whole_where_it_says_so(name):
    loss = LOSS_CLASSES[name]()
    logits, labels = random_batch()
    parts = sum(loss(logits[part], labels[part]) for part in torch.arange(200).split(30))
    torch.testing.assert_close(parts, loss(logits, labels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [(name, *illegal) for name in NAMES for illegal in ILLEGAL if has_option(name, illegal[0])],
)
def test_an_illegal_option_is_refused_by_function_module_and_config(name, option, value):
    logits, labels = random_batch()
    with pytest.raises(ValueError, match=option):
        function_of(name)(logits, labels, **{option: value})
    with pytest.raises(ValueError, match=option):
        LOSS_CLASSES[name](**{option: value})
    key = LOSS_CLASSES[name].config_keys[option]
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.FOCAL.CLS_LOSS.NAME", name, key, value])
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        build_cls_loss(cfg)


@pytest.mark.parametrize("name", [name for name in NAMES if has_option(name, "alpha")])
def test_alpha_minus_one_is_off_as_in_detectron2(name):
    logits, labels = random_batch()
    off = function_of(name)(logits, labels, alpha=None)
    torch.testing.assert_close(function_of(name)(logits, labels, alpha=-1), off)
