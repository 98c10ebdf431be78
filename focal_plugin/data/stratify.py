"""
Stratified split of images that each hold several classes.

Shape shorthand:
    G: number of groups, each of one or several images that must stay together
    K: number of classes
    P: number of parts
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratified_parts(
    images: np.ndarray, holding: np.ndarray, *, shares: Sequence[float], seed: int
) -> np.ndarray:
    """
    Choose the part of each group, so that each class has its share of images in every part.

    The class with the fewest images left goes first. Each of its groups goes to the part that
    lacks most images of this class, then to the part that lacks most images, then to a random one.
    (Iterative stratification, Sechidis et al. 2011, Algorithm 1, doi:10.1007/978-3-642-23808-6_10,
    for groups of images.)

    Args:
        images: (G,), int, images of each group, >= 1.
        holding: (G, K), int, images of each group with an object of each class.
        shares: (P,), share of the images in each part, > 0, with a sum of 1.
        seed: seed of the random choices, >= 0.

    Returns:
        (G,), int, index of the part of each group.

    Raises:
        ValueError: a share is not in (0, 1), or their sum is not 1.
    """
    if not all(0 < share < 1 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares must be in (0, 1) with a sum of 1, got {list(shares)}")
    rng = np.random.default_rng(seed)
    wanted = np.array(shares)
    lacking = wanted * images.sum()  # images that each part lacks
    lacking_of_class = wanted[:, None] * holding.sum(axis=0)  # (P, K)
    left = holding.sum(axis=0)
    part = np.full(len(images), -1)
    order = rng.permutation(len(images))

    def place(group: int, wishes: tuple[np.ndarray, ...]) -> None:
        best = np.arange(len(wanted))
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
    return part
