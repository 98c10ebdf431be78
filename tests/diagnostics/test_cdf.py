import numpy as np
import pytest

from focal_plugin.diagnostics.cdf import cumulative_loss, share_of_hardest


def test_cumulative_loss_is_that_of_a_loop_and_ends_at_one():
    losses = np.random.default_rng(0).exponential(size=50)
    anchors, held = cumulative_loss(losses)
    ordered = sorted(losses)
    for i in range(51):
        assert anchors[i] == pytest.approx(i / 50)
        assert held[i] == pytest.approx(sum(ordered[:i]) / sum(ordered))
    assert (anchors[0], held[0], anchors[-1], held[-1]) == (0, 0, 1, 1)


def test_equal_losses_are_a_straight_line():
    anchors, held = cumulative_loss(np.full(7, 0.3))
    np.testing.assert_allclose(held, anchors)


def test_loss_of_zero_and_no_anchors_hold_nothing():
    assert cumulative_loss(np.zeros(3))[1].tolist() == [0, 0, 0, 0]
    assert cumulative_loss(np.zeros(0))[1].tolist() == [0]
    assert share_of_hardest(np.zeros(3), 0.5) == 0


def test_the_hardest_hold_what_the_easiest_do_not():
    losses = np.array([8.0, 1.0, 1.0, 0.0])
    assert share_of_hardest(losses, 0.25) == pytest.approx(0.8)
    assert share_of_hardest(losses, 0.0) == 0
    assert share_of_hardest(losses, 1.0) == 1
    with pytest.raises(ValueError, match=r"got 1\.5"):
        share_of_hardest(losses, 1.5)
