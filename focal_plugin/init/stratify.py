"""
Stratified split of images that each hold several classes.

Shape shorthand:
    G: number of groups, each of one or several images that must stay together
    K: number of classes
"""

from __future__ import annotations

import numpy as np


def stratified_split(
    images: np.ndarray, holding: np.ndarray, *, share: float, seed: int
) -> np.ndarray:
    """
    Choose the groups of the smaller part, so that each class has its share of images in it.

    The class with the fewest images left goes first. Each of its groups goes to the part that
    lacks most images of this class, then to the part that lacks most images, then to a random one.
    (Iterative stratification, Sechidis et al. 2011, Algorithm 1, doi:10.1007/978-3-642-23808-6_10,
    for two parts and groups of images.)

    Args:
        images: (G,), int, images of each group, >= 1.
        holding: (G, K), int, images of each group with an object of each class.
        share: share of the images in the smaller part, in (0, 1).
        seed: seed of the random choices, >= 0.

    Returns:
        (G,), bool, True for the groups of the smaller part.

    Raises:
        ValueError: ``share`` is not in (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}")
    rng = np.random.default_rng(seed)
    shares = np.array([1 - share, share])
    lacking = shares * images.sum()  # images that each part lacks
    lacking_of_class = shares[:, None] * holding.sum(axis=0)  # (2, K)
    left = holding.sum(axis=0)
    part = np.full(len(images), -1)
    order = rng.permutation(len(images))

    def place(group: int, wishes: tuple[np.ndarray, ...]) -> None:
        best = np.array([0, 1])
        for wish in wishes:
            best = best[wish[best] >= wish[best].max() - 1e-9]
        chosen = part[group] = rng.choice(best)
        lacking[chosen] -= images[group]
        lacking_of_class[chosen] -= holding[group]
        left[:] -= holding[group]

    while left.any():
        rarest = np.flatnonzero(left)[left[left > 0].argmin()]
        for group in order[(part[order] < 0) & (holding[order, rarest] > 0)]:
            place(group, (lacking_of_class[:, rarest], lacking))
    for group in order[part[order] < 0]:
        place(group, (lacking,))
    return part == 1
