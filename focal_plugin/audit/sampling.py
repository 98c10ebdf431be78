"""
Samples of objects in which rare classes keep all of theirs.

Shape shorthand:
    M: number of annotations
    K: number of classes
"""

from __future__ import annotations

import numpy as np

from .object_table import ObjectTable


def sample_by_class(table: ObjectTable, most: int, *, seed: int = 0) -> ObjectTable:
    """
    Return about ``most`` objects of a table and their images, without crowd regions.

    A class keeps all of its objects up to a number that is the same for all classes. At least one
    object of each class stays.
    """
    objects = np.flatnonzero(table.is_object)
    quota = equal_quota(np.bincount(table.classes[objects]), most)
    shuffled = np.random.default_rng(seed).permutation(objects)
    by_class = shuffled[np.argsort(table.classes[shuffled], kind="stable")]
    classes = table.classes[by_class]
    place = np.arange(len(classes)) - np.searchsorted(classes, classes)
    return objects_of(table, np.sort(by_class[place < quota]))


def equal_quota(counts: np.ndarray, most: int) -> int:
    """
    Return the largest number, at least 1, that may be taken from each class.

    Args:
        counts: (K,), objects of each class.
        most: objects of all classes together.
    """
    ascending = np.sort(counts[counts > 0])
    remaining = np.arange(len(ascending), 0, -1)  # classes at least as large
    taken = np.cumsum(ascending) - ascending  # from smaller classes
    quotas = (most - taken) // remaining
    enough = np.flatnonzero(quotas < ascending)
    return int(max(1, quotas[enough[0]] if len(enough) else ascending.max(initial=1)))


def objects_of(table: ObjectTable, kept: np.ndarray) -> ObjectTable:
    """Return a table with some annotations, in the order of their indices, and their images."""
    images, image = np.unique(table.image[kept], return_inverse=True)
    return table._replace(
        file_names=[table.file_names[i] for i in images],
        image_sizes=table.image_sizes[images],
        image=image.reshape(-1),
        boxes=table.boxes[kept],
        classes=table.classes[kept],
    )
