"""F1-best score thresholds."""

import numpy as np
import pytest

from focal_plugin.score_thresholds import ClassThreshold, best_f1


def f1_at(threshold, score, right, objects):
    shown = score >= threshold
    return 2 * np.count_nonzero(right & shown) / (np.count_nonzero(shown) + objects)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_threshold_has_a_larger_f1(seed):
    generator = np.random.default_rng(seed)
    score = generator.integers(0, 30, 80) / 30  # with ties
    right = generator.random(80) < score
    objects = int(right.sum()) + seed
    best = best_f1(score, right, objects)
    expected = {x: f1_at(x, score, right, objects) for x in score}
    assert best.f1 == max(expected.values())
    assert best.score == max(x for x, f1 in expected.items() if f1 == best.f1)
    shown = score >= best.score
    found = np.count_nonzero(right & shown)
    assert best[1:3] == (found / np.count_nonzero(shown), found / objects)
    assert best.f1 == pytest.approx(2 / (1 / best.precision + 1 / best.recall))


@pytest.mark.parametrize("score", [[], [0.4, 0.9]])
def test_without_a_correct_detection_there_is_none(score):
    assert best_f1(np.array(score), np.zeros(len(score), bool), 3) is None
    assert ClassThreshold.of("a", 3, None) == ClassThreshold("a", 3, None, None, None, None)
