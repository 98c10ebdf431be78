"""NorCal: the softmax of a box head, calibrated by the images of each class."""

import math

import pytest
import torch

from focal_plugin.losses import SeesawLoss, SigmoidFocalLoss, SoftmaxFocalLoss
from focal_plugin.modeling.norcal import NorCal

from ..each import each
from .test_fast_rcnn import KEYS, K, make, make_from_config, random_predictions, random_proposals

COUNTS = [1000, 200, 7, 1, 0]


def reference(logits, counts, gamma):
    """Divide exponentials, row by row, in float64; a class without images counts as one."""
    rows = []
    for *classes, background in logits.double().tolist():
        top = max(*classes, background)
        parts = [
            math.exp(x - top) / max(n, 1) ** gamma for x, n in zip(classes, counts, strict=True)
        ]
        parts.append(math.exp(background - top))
        rows.append([part / sum(parts) for part in parts])
    return torch.tensor(rows)


@each("gamma", [0.3, 1.0])
@each("cls_loss", [None, SoftmaxFocalLoss()])
def test_probabilities_are_divided_by_a_power_of_the_images(gamma, cls_loss):
    norcal = NorCal(gamma=gamma, images_per_class=COUNTS)
    layers = make(cls_loss=cls_loss, norcal=norcal)
    predictions = random_predictions()
    probs = torch.cat(layers.predict_probs(predictions, random_proposals()))
    torch.testing.assert_close(probs, reference(predictions[0], COUNTS, gamma))


def test_it_cannot_overflow():
    layers = make(norcal=NorCal(gamma=1.0, images_per_class=COUNTS))
    predictions = random_predictions(scale=1e4)
    probs = torch.cat(layers.predict_probs(predictions, random_proposals()))
    torch.testing.assert_close(probs.sum(1), torch.ones(len(probs)))


def test_equal_counts_change_only_the_share_of_the_background():
    scores = random_predictions()[0].detach()
    before = scores.softmax(1)
    after = NorCal(gamma=0.5, images_per_class=[9] * K)(scores).softmax(1)
    of_objects = [x[:, :K] / x[:, :K].sum(1, keepdim=True) for x in (before, after)]
    torch.testing.assert_close(*of_objects)
    odds = [x[:, K] / (1 - x[:, K]) for x in (before, after)]
    torch.testing.assert_close(odds[1], 3 * odds[0], rtol=1e-4, atol=0)


def test_the_loss_is_that_without_calibration():
    opts = [f"{KEYS}.CLS_LOSS.NAME", "SoftmaxFocalLoss", f"{KEYS}.CLS_LOSS.SAMPLES_PER_CLASS"]
    layers, _ = make_from_config(*opts, COUNTS, f"{KEYS}.NORCAL_GAMMA", 0.6)
    per_roi = layers.losses_per_roi(random_predictions(), random_proposals())
    plain, _ = make_from_config(*opts[:2])
    expected = plain.losses_per_roi(random_predictions(), random_proposals())
    assert torch.equal(per_roi["loss_cls"], expected["loss_cls"])
    assert layers.state_dict().keys() == plain.state_dict().keys()


def test_a_gamma_of_zero_is_off():
    layers, _ = make_from_config()
    assert layers.norcal is None


def test_without_the_images_it_can_be_built_but_does_not_predict():
    layers, _ = make_from_config(f"{KEYS}.NORCAL_GAMMA", 0.6)
    with pytest.raises(ValueError, match=rf"{KEYS}\.CLS_LOSS\.SAMPLES_PER_CLASS must be one"):
        layers.predict_probs(random_predictions(), random_proposals())


def test_a_loss_without_a_softmax_of_all_classes_and_the_background_is_refused():
    for loss in (SigmoidFocalLoss(), SeesawLoss()):
        with pytest.raises(ValueError, match=rf"{KEYS}\.NORCAL_GAMMA > 0 requires a softmax loss"):
            make(cls_loss=loss, norcal=NorCal(gamma=1.0))


@each(("key", "value"), [("NORCAL_GAMMA", -0.5), ("CLS_LOSS.SAMPLES_PER_CLASS", [1, -1])])
def test_an_illegal_value_is_an_error_that_names_its_key(key, value):
    with pytest.raises(ValueError, match=rf"^{KEYS}\.{key} must be"):
        make_from_config(f"{KEYS}.NORCAL_GAMMA", 0.6, f"{KEYS}.{key}", value)
