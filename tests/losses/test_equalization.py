import pytest
import torch

from focal_plugin.losses import equalization_loss, sigmoid_cross_entropy_loss

from .regimes import K, assert_value_and_gradient_match, one_hot, random_batch

SAMPLES = [600, 300, 70, 20, 10]  # shares .6 .3 .07 .02 .01


@pytest.mark.parametrize("threshold", [0.0, 0.015, 0.05, 0.2, 1.0])
def test_equals_its_definition_in_float64(threshold):
    logits, labels = random_batch()
    keep = labels >= 0
    x, y = logits.double()[keep], one_hot(labels)[keep]
    rare = torch.tensor([n / 1000 < threshold for n in SAMPLES]).double()
    is_object = (labels[keep] < K).double().unsqueeze(1)
    weight = 1 - is_object * rare * (1 - y)
    reference = -(weight * torch.where(y == 1, torch.sigmoid(x), torch.sigmoid(-x)).log()).sum()
    loss = equalization_loss(logits, labels, samples_per_class=SAMPLES, threshold=threshold)
    assert_value_and_gradient_match(loss, reference, logits)


def test_a_threshold_of_zero_is_cross_entropy():
    logits, labels = random_batch()
    loss = equalization_loss(logits, labels, samples_per_class=SAMPLES, threshold=0.0)
    torch.testing.assert_close(loss, sigmoid_cross_entropy_loss(logits, labels))


@pytest.mark.parametrize(("label", "pushes_the_rare_down"), [(0, False), (K, True)])
def test_only_background_suppresses_a_rare_class(label, pushes_the_rare_down):
    logits = torch.zeros(1, K, requires_grad=True)
    labels = torch.tensor([label])
    equalization_loss(logits, labels, samples_per_class=SAMPLES, threshold=0.05).backward()
    assert (logits.grad[0, 3:] > 0).all() == pushes_the_rare_down
    assert (logits.grad[0, 1:3] > 0).all()


def test_a_share_at_the_threshold_is_not_rare():
    logits, labels = torch.zeros(1, 2), torch.tensor([0])
    loss = equalization_loss(logits, labels, samples_per_class=[3, 1], threshold=0.25)
    torch.testing.assert_close(loss, 2 * torch.tensor(2.0).log())
