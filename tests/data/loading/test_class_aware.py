"""Class-aware sampling: each class equally often, and a stream that depends only on the seed."""

import itertools
from collections import Counter

import pytest

from focal_plugin.data.loading.class_aware import ClassAwareTrainingSampler, classes_of

CLASSES = [{0}, {0}, set(), {0, 2}, {0}, {7}, {0, 7}]
"""Three classes of 5, 1 and 2 images; an image without objects."""


def draw(count, *, seed=3, classes=CLASSES):
    return list(itertools.islice(ClassAwareTrainingSampler(classes, seed=seed), count))


def test_a_class_of_one_image_is_drawn_as_often_as_any_other():
    images = draw(300)
    seen = Counter(images)
    # each third of the draws is of one class, and a class shows its images in turn
    assert seen == {3: 100 + 20, 5: 50, 6: 50 + 20, 0: 20, 1: 20, 4: 20}


def test_each_round_of_draws_has_every_class():
    images = draw(60)
    for start in range(0, 60, 3):
        drawn = [CLASSES[index] for index in images[start : start + 3]]
        assert any({0, 2, 7} == {*picks} for picks in itertools.product(*drawn))


def test_rounds_and_images_are_shuffled():
    rounds = {tuple(draw(3 * n)[-3:]) for n in range(1, 20)}
    assert len(rounds) > 3


def test_the_stream_depends_only_on_the_seed():
    assert draw(100) == draw(100)
    assert draw(100) != draw(100, seed=4)
    one_class = [{0}] * 20
    assert draw(20, classes=one_class) != draw(20, classes=one_class, seed=4)


def test_an_image_without_objects_is_never_drawn():
    assert 2 not in draw(1000)


def test_without_any_object_it_is_refused():
    with pytest.raises(ValueError, match=r"SAMPLER_TRAIN ClassAware.* and the training set has no"):
        draw(1, classes=[set(), set()])


def test_crowd_regions_are_no_objects():
    objects = [{"category_id": 3}, {"category_id": 5, "iscrowd": 1}, {"category_id": 3}]
    assert classes_of({"annotations": objects}) == {3}
    assert classes_of({}) == set()
