"""focal_plugin/data/stratify.py: iterative stratification."""

import numpy as np
import pytest

from focal_plugin.data.stratify import stratified_parts


def long_tailed(groups=400, classes=12, seed=0):
    """Images that hold each class with a probability that halves from class to class."""
    rng = np.random.default_rng(seed)
    holding = (rng.random((groups, classes)) < 0.9 * 0.6 ** np.arange(classes)).astype(int)
    return np.ones(groups, dtype=int), holding


def smaller_part(images, holding, *, share, seed):
    """True for the groups of the smaller of two parts."""
    return stratified_parts(images, holding, shares=(1 - share, share), seed=seed) == 1


def test_each_class_has_its_share_of_images_within_one_image():
    images, holding = long_tailed()
    chosen = smaller_part(images, holding, share=0.2, seed=1)
    wanted, found = 0.2 * holding.sum(axis=0), holding[chosen].sum(axis=0)
    rare = holding.sum(axis=0) < 60
    assert rare.sum() >= 5
    assert np.abs(found - wanted)[rare].max() <= 1.5
    assert abs(chosen.sum() - 0.2 * len(images)) <= 3


def test_a_random_split_is_worse_for_the_rare_classes():
    images, holding = long_tailed()
    wanted = 0.2 * holding.sum(axis=0)

    def error(chosen):
        return (np.abs(holding[chosen].sum(axis=0) - wanted) / wanted).mean()

    rng = np.random.default_rng(0)
    ours = np.mean([error(smaller_part(images, holding, share=0.2, seed=s)) for s in range(5)])
    random = np.mean([error(rng.random(len(images)) < 0.2) for _ in range(20)])
    assert ours < 0.5 * random


def test_a_class_in_few_images_goes_to_the_larger_part_first():
    images, holding = np.ones(10, dtype=int), np.zeros((10, 2), dtype=int)
    holding[:, 0] = 1
    holding[3, 1] = 1
    chosen = smaller_part(images, holding, share=0.2, seed=0)
    assert not chosen[3]
    assert chosen.sum() == 2


def test_images_without_objects_are_shared_out_too():
    chosen = smaller_part(np.ones(50, dtype=int), np.zeros((50, 3), dtype=int), share=0.2, seed=0)
    assert chosen.sum() == 10


def test_a_group_counts_as_all_of_its_images():
    images = np.array([8] + [1] * 32)
    chosen = smaller_part(images, images[:, None].copy(), share=0.2, seed=0)
    assert images[chosen].sum() == 8


def test_the_seed_decides_and_the_arguments_stay():
    images, holding = long_tailed()
    before = holding.copy()
    first, again, other = (smaller_part(images, holding, share=0.2, seed=s) for s in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()
    assert (holding == before).all()


def test_each_fold_has_its_share_of_every_class():
    images, holding = long_tailed()
    fold = stratified_parts(images, holding, shares=(0.2,) * 5, seed=1)
    assert np.abs(np.bincount(fold) - len(images) / 5).max() <= 3
    counts = np.array([holding[fold == i].sum(axis=0) for i in range(5)])
    rare = holding.sum(axis=0) < 60
    assert np.ptp(counts, axis=0)[rare].max() <= 2


@pytest.mark.parametrize("shares", [(0, 1), (1.1, -0.1), (0.5, 0.4), ()])
def test_illegal_shares_are_refused(shares):
    with pytest.raises(ValueError, match="shares"):
        stratified_parts(np.ones(2, dtype=int), np.ones((2, 1), dtype=int), shares=shares, seed=0)
