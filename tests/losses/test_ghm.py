import pytest
import torch
from torch import nn
from torch.nn import functional as F

from focal_plugin import get_cfg
from focal_plugin.losses import (
    GHMLoss,
    build_cls_loss,
    ghm_loss,
    gradient_density,
    sigmoid_cross_entropy_loss,
)
from focal_plugin.losses.gradient_density import GradientDensity, count_per_bin, density_weights

from .regimes import K, assert_value_and_gradient_match, one_hot, random_batch


def _reference(logits, labels, bins, smooth=lambda bin, count: count):
    """Compute 1/M sum CE / count, bin by bin, in float64 from one-hot targets."""
    keep = labels >= 0
    x, y = logits.double()[keep], one_hot(labels)[keep]
    ce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    norms = (torch.sigmoid(x) - y).abs().detach()
    total, non_empty = 0.0, 0
    for bin in range(bins):
        inside = (norms >= bin / bins) & ((norms < (bin + 1) / bins) | (bin == bins - 1))
        if inside.any():
            non_empty += 1
            total = total + ce[inside].sum() / smooth(bin, inside.sum())
    return total / non_empty


@pytest.mark.parametrize("bins", [1, 2, 10, 30])
def test_equals_its_definition_in_float64(bins):
    logits, labels = random_batch()
    loss = ghm_loss(logits, labels, bins=bins)
    assert_value_and_gradient_match(loss, _reference(logits, labels, bins), logits)


def test_one_bin_is_the_mean_of_cross_entropy():
    logits, labels = random_batch()
    mean = sigmoid_cross_entropy_loss(logits, labels) / ((labels >= 0).sum() * K)
    torch.testing.assert_close(ghm_loss(logits, labels, bins=1), mean)


def test_many_more_easy_negatives_change_nothing_once_their_bin_is_full():
    hard = torch.tensor([[2.0], [-1.0], [0.3]])
    easy = torch.full((10_000, 1), -9.0)
    values = [
        ghm_loss(torch.cat([hard, easy[:n]]), torch.tensor([1, 0, 0] + [1] * n))
        for n in (10, 10_000)
    ]
    torch.testing.assert_close(values[0], values[1])
    # Cross entropy itself grows with them.
    ce = sigmoid_cross_entropy_loss(easy, torch.ones(10_000, dtype=torch.int64))
    assert ce / 10 > sigmoid_cross_entropy_loss(easy[:10], torch.ones(10, dtype=torch.int64))


@pytest.mark.parametrize("bins", [1, 7, 30])
def test_weights_sum_to_one_and_every_bin_has_the_same_share(bins):
    norms = torch.rand(40, K, generator=torch.Generator().manual_seed(0)) ** 3
    valid = torch.arange(40) % 3 > 0
    weights = density_weights(norms, valid, bins=bins)[valid]
    shares = torch.zeros(bins).index_add_(
        0, (norms[valid] * bins).long().flatten(), weights.flatten()
    )
    non_empty = shares[shares > 0]
    torch.testing.assert_close(non_empty, torch.full_like(non_empty, 1 / len(non_empty)))
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def test_weights_are_zero_where_no_row_is_valid():
    norms, valid = torch.rand(4, K), torch.zeros(4, dtype=torch.bool)
    assert (density_weights(norms, valid, bins=10) == 0).all()


def test_counts_are_exact_where_float32_would_stall():
    index = torch.zeros(1, 1, dtype=torch.int64).expand(2**24 + 2**12, 1)
    counts = count_per_bin(index, torch.ones(len(index), dtype=torch.bool), 2)
    assert counts.tolist() == [2**24 + 2**12, 0]


def test_the_first_step_has_the_weights_of_momentum_zero():
    logits, labels = random_batch()
    smoothed = GHMLoss(momentum=0.75)(logits, labels)
    torch.testing.assert_close(smoothed, GHMLoss(momentum=0.0)(logits, labels), rtol=0, atol=0)
    torch.testing.assert_close(smoothed, ghm_loss(logits, labels), rtol=0, atol=0)


def test_weights_of_a_constant_histogram_are_right_from_the_first_step_on():
    """An uncorrected EMA that starts at 0 has weights too large by 1 / (1 - momentum^step)."""
    logits, labels = random_batch()
    loss, expected = GHMLoss(momentum=0.75), ghm_loss(logits, labels)
    running, factors = [0.0] * 30, []

    def uncorrected(bin, count):
        running[bin] = 0.75 * running[bin] + 0.25 * count.item()
        return running[bin]

    for _ in range(3):
        naive = _reference(logits, labels, 30, uncorrected)
        factors.append((naive / expected).item())
        torch.testing.assert_close(loss(logits, labels), expected)
    assert factors == pytest.approx([4.0, 2.29, 1.73], abs=5e-3)


def test_later_steps_have_the_corrected_running_mean_of_each_bin():
    loss = GHMLoss(bins=10, momentum=0.6)
    total, weight = [0.0] * 10, [0.0] * 10
    for seed in range(4):
        # At a small scale, some bins are empty and keep their mean.
        logits, labels = random_batch(num_anchors=30 + 20 * seed, scale=0.1 * 4**seed, seed=seed)

        def smooth(bin, count):
            total[bin] = 0.6 * total[bin] + 0.4 * count.item()
            weight[bin] = 0.6 * weight[bin] + 0.4
            return total[bin] / weight[bin]

        reference = _reference(logits, labels, 10, smooth)
        assert_value_and_gradient_match(loss(logits, labels), reference, logits)
    assert len(set(weight)) > 1, "every bin was in every step"


def test_a_bin_that_is_empty_in_a_step_keeps_its_mean():
    density = GradientDensity(bins=2, momentum=0.5)
    valid = torch.ones(6, dtype=torch.bool)
    density.update(torch.full((6, 1), 0.1), valid)
    density.update(torch.full((6, 1), 0.9), valid)
    density.update(torch.full((3, 1), 0.9), valid[:3])
    torch.testing.assert_close(density.mean, torch.tensor([6.0, 4.0]))  # (6 + 2 * 3) / 3


def test_update_changes_the_state_and_per_anchor_does_not():
    logits, labels = random_batch()
    loss = GHMLoss()
    loss.per_anchor(logits, labels)
    assert (loss.density.mean == 0).all()
    loss.update(logits, labels)
    assert loss.density.mean.sum().item() == pytest.approx((labels >= 0).sum().item() * K)


def test_evaluation_does_not_change_the_state():
    loss = GHMLoss().eval()
    loss(*random_batch())
    assert (loss.density.mean == 0).all()


def test_state_survives_a_checkpoint():
    loss, restored = GHMLoss(), GHMLoss()
    for seed in range(2):
        loss(*random_batch(seed=seed))
    restored.load_state_dict(loss.state_dict())
    assert {buffer.shape for buffer in loss.state_dict().values()} == {(30,)}
    batch = random_batch(seed=5)
    torch.testing.assert_close(restored(*batch), loss(*batch), rtol=0, atol=0)
    assert not torch.equal(GHMLoss()(*batch), loss(*batch))


def test_counts_are_the_mean_over_processes(monkeypatch):
    logits, labels = random_batch()
    monkeypatch.setattr(gradient_density, "mean_over_processes", lambda counts: counts * 3)
    loss = GHMLoss()
    torch.testing.assert_close(loss(logits, labels) * 3, ghm_loss(logits, labels))
    assert loss.density.mean.sum().item() == pytest.approx(3 * K * (labels >= 0).sum().item())


def test_a_bin_that_only_another_process_fills_counts_as_filled(monkeypatch):
    logits, labels = random_batch(scale=0.0)  # all norms are 1/2
    elsewhere = torch.tensor([1.0, 0.0])
    monkeypatch.setattr(gradient_density, "mean_over_processes", lambda counts: counts + elsewhere)
    here = GHMLoss(bins=2)(logits, labels)
    torch.testing.assert_close(here * 2, ghm_loss(logits, labels, bins=2))


def test_a_nan_in_a_valid_row_shows_in_the_loss_and_not_in_the_state():
    logits, labels = random_batch()
    poisoned = logits.detach().clone()
    poisoned[(labels == 0).nonzero()[0], 0] = float("nan")
    loss = GHMLoss()
    assert loss(poisoned, labels).isnan()
    assert loss.density.mean.isfinite().all()


def test_only_the_logits_stay_alive_for_backward():
    logits, labels = random_batch()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        ghm_loss(logits, labels)
    assert [x.data_ptr() for x in saved] == [logits.data_ptr()]


def test_the_attributes_say_how_to_use_it():
    assert (GHMLoss.own_normalizer, GHMLoss.stateful, GHMLoss.decomposes) == (True, True, False)


@pytest.mark.parametrize(
    ("option", "value"), [("bins", 0), ("bins", 2.5), ("momentum", 1.0), ("momentum", -0.1)]
)
def test_an_illegal_option_is_refused_by_module_and_config(option, value):
    with pytest.raises(ValueError, match=option):
        GHMLoss(**{option: value})
    cfg = get_cfg()
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = "GHMLoss"
    cfg.MODEL.FOCAL.CLS_LOSS[f"GHM_{option.upper()}"] = value
    with pytest.raises(ValueError, match=rf"MODEL\.FOCAL\.CLS_LOSS\.GHM_{option.upper()}"):
        build_cls_loss(cfg)


def test_a_model_that_holds_it_can_be_scripted():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_loss = GHMLoss()

        def forward(self, x):
            return x + 1

    assert torch.jit.script(Model())(torch.zeros(1)).item() == 1
