"""
Comparison of whole detectors at the default keys with Detectron2's own.

The tests compare weights, losses, gradients and detections. `test_export.py` compares the exported
graphs, and the tests of each component cover its options.
"""

import pytest
import torch

from .pairs import PAIRS, make_pair
from .test_roi_heads import batch_with_masks
from .toy import gradients_of

CASCADE_MASK = "cascade mask"
NAMES = [*PAIRS, CASCADE_MASK]
LOSSES = {
    "retinanet": {"loss_cls", "loss_box_reg"},
    "mask": {"loss_mask", "loss_cls", "loss_rpn_cls"},
    "keypoint": {"loss_keypoint"},
    "cascade": {"loss_cls_stage2", "loss_box_reg_stage2"},
    CASCADE_MASK: {"loss_cls_stage2", "loss_mask"},
}


FEW = ("TEST.DETECTIONS_PER_IMAGE", 10)


@pytest.fixture(params=NAMES)
def named_pair(request):
    more = PAIRS["mask"][1] if request.param == CASCADE_MASK else ()
    name = "cascade" if request.param == CASCADE_MASK else request.param
    return request.param, make_pair(name, *more, *FEW)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_weights_and_state_dict_keys_of_one_seed_are_stocks(named_pair):
    ours, stock = (model.state_dict() for model in named_pair[1])
    assert list(ours) == list(stock)
    for key, value in stock.items():
        assert torch.equal(ours[key], value), key


def test_losses_gradients_and_random_numbers_are_stocks(named_pair):
    name, models = named_pair
    steps = []
    for model in models:
        torch.manual_seed(1)
        losses, gradients = gradients_of(model.train(), batch_with_masks(2))
        steps.append((losses, gradients, torch.get_rng_state()))
    (losses, gradients, state), (stock_losses, stock_gradients, stock_state) = steps
    assert list(losses) == list(stock_losses)
    assert LOSSES.get(name, set()) <= losses.keys()
    for loss, value in stock_losses.items():
        assert value > 0, loss
        torch.testing.assert_close(losses[loss], value, rtol=2e-6, atol=0)
    assert gradients.keys() == stock_gradients.keys()
    for parameter, gradient in stock_gradients.items():
        difference = (gradients[parameter] - gradient).norm()
        assert difference <= 1e-5 * gradient.norm() + 1e-7, parameter
    assert torch.equal(state, stock_state)


def test_detections_are_stocks(named_pair):
    name, models = named_pair
    batch = [{"image": x["image"]} for x in batch_with_masks(2)]
    with torch.no_grad():
        ours, stock = ([x["instances"] for x in model.eval()(batch)] for model in models)
    assert sum(len(x) for x in stock) > 0
    for mine, theirs in zip(ours, stock, strict=True):
        fields = theirs.get_fields()
        assert mine.get_fields().keys() == fields.keys()
        assert ("pred_masks" in fields) == ("mask" in name)
        for field, value in fields.items():
            tensor = getattr(value, "tensor", value)
            found = mine.get(field)
            assert torch.equal(getattr(found, "tensor", found), tensor), field
