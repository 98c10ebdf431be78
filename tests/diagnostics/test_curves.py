import numpy as np
import pytest

from focal_plugin.diagnostics.curves import parse_loss, trace_loss
from focal_plugin.losses import CLS_LOSS_REGISTRY

from ..each import each
from ..registrations import DENSE_CLS_LOSSES

X_T = np.linspace(-5, 5, 41)
P_T = 1 / (1 + np.exp(-X_T))


def test_cross_entropy_is_the_papers():
    curve = trace_loss("SigmoidCrossEntropyLoss", X_T)
    for side in (curve.positive, curve.negative):
        np.testing.assert_allclose(side.loss, -np.log(P_T), rtol=1e-5)
        np.testing.assert_allclose(side.gradient, 1 - P_T, rtol=1e-4)
    assert curve.is_symmetric


@pytest.mark.parametrize("gamma", [0.5, 2])
def test_focal_loss_and_its_gradient_are_the_papers(gamma):
    # arXiv:1708.02002 appendix B
    curve = trace_loss(f"SigmoidFocalLoss:gamma={gamma},alpha=None", X_T)
    expected = (1 - P_T) ** gamma * (gamma * P_T * np.log(P_T) + P_T - 1)
    np.testing.assert_allclose(curve.positive.loss, -((1 - P_T) ** gamma) * np.log(P_T), rtol=1e-4)
    np.testing.assert_allclose(curve.positive.gradient, -expected, rtol=1e-4)
    assert curve.is_symmetric


def test_shifted_focal_loss_has_the_papers_gradient():
    curve = trace_loss("SigmoidFocalStarLoss:gamma=2,beta=1,alpha=None", X_T)
    shifted = 1 / (1 + np.exp(-(2 * X_T + 1)))
    np.testing.assert_allclose(curve.negative.gradient, 1 - shifted, rtol=1e-4)


def test_alpha_tells_positives_from_negatives():
    curve = trace_loss("SigmoidFocalLoss:alpha=0.25", X_T)
    np.testing.assert_allclose(3 * curve.positive.loss, curve.negative.loss, rtol=1e-4)
    assert not curve.is_symmetric


def test_softmax_of_two_logits_is_the_sigmoid():
    assert trace_loss("SoftmaxFocalLoss", X_T).equals(trace_loss("SigmoidFocalLoss", X_T))
    assert not trace_loss("SoftmaxFocalLoss", X_T).equals(
        trace_loss("SoftmaxFocalLoss:gamma=1", X_T)
    )


def test_quality_is_that_of_a_perfect_box():
    curve = trace_loss("QualityFocalLoss:beta=2", X_T)
    assert curve.equals(trace_loss("SigmoidFocalLoss:gamma=2,alpha=None", X_T))


@pytest.mark.parametrize("name", sorted(dict(CLS_LOSS_REGISTRY)))
def test_every_registered_loss_has_a_finite_curve_or_an_error_says_why(name):
    if name not in DENSE_CLS_LOSSES:
        with pytest.raises(ValueError, match="is a loss of RoI heads"):
            trace_loss(name, X_T)
        return
    if CLS_LOSS_REGISTRY.get(name).own_normalizer:
        with pytest.raises(ValueError, match=rf"{name} has no curve.*anchors in the batch"):
            trace_loss(name, X_T)
        return
    curve = trace_loss(name, X_T)
    for side in (curve.positive, curve.negative):
        assert side.loss.shape == side.gradient.shape == X_T.shape
        assert np.isfinite(side.loss).all()
        assert np.isfinite(side.gradient).all()
        assert side.loss[-1] <= side.loss[0]


def test_options_are_literals_and_lists_keep_their_commas():
    loss = parse_loss("ClassBalancedFocalLoss: samples_per_class=[3, 5], gamma=1.5")
    assert loss.samples_per_class == [3, 5]
    assert loss.gamma == 1.5


@each(
    ("text", "message"),
    [
        ("SigmoidFocalLos", "did you mean 'SigmoidFocalLoss'.*AsymmetricLoss, .*VarifocalLoss"),
        ("SigmoidFocalLoss:gama=2", "no option 'gama'; did you mean 'gamma'"),
        ("SigmoidFocalLoss:gamma", "option=value, got 'gamma'"),
        ("SigmoidFocalLoss:gamma=-1", "gamma must be >= 0, got -1"),
        ("SigmoidFocalLoss:gamma=two", "gamma must be a number, got 'two'"),
        ("", "no loss ''"),
    ],
)
def test_mistakes_are_explained(text, message):
    with pytest.raises(ValueError, match=message):
        trace_loss(text, X_T)
