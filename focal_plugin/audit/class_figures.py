"""
Figures of the classes: how many objects and images each one has.

Shape shorthand:
    K: number of classes
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .object_table import ObjectTable
from .summaries import ratio

RARE, COMMON = 10, 100
"""Most images of a rare and of a common class, as in LVIS (arXiv:1908.03195)."""
FEWEST_FOR_LVIS = 30
"""Classes from which on the groups are those of LVIS; below, they are thirds of the classes."""


def class_facts(table: ObjectTable, num_classes: int, *, cb_beta: float) -> dict[str, Any]:
    """
    Return the figures of the classes.

    Args:
        num_classes: K.
        cb_beta: beta of the effective number of objects, in [0, 1).
    """
    objects = table.objects_per_class(num_classes)
    pairs = _image_class_pairs(table)
    images = np.bincount(pairs[:, 1], minlength=num_classes)
    present = np.flatnonzero(objects)
    head = int(objects.argmax()) if len(present) else None
    with_head = _images_with(head, pairs, num_classes) if head is not None else images
    rank = np.empty(num_classes, dtype=np.int64)
    rank[np.argsort(-objects, kind="stable")] = np.arange(1, num_classes + 1)
    names = class_names(table, num_classes)
    groups = class_groups(images)
    effective = (1 - np.power(cb_beta, objects)) / (1 - cb_beta)
    rows = [
        {
            "index": c,
            "name": names[c],
            "objects": int(objects[c]),
            "images": int(images[c]),
            "share": ratio(objects[c], objects.sum()),
            "rank": int(rank[c]),
            "effective_number": float(effective[c]),
            "group": groups[c],
            "with_head": ratio(with_head[c], images[c]),
        }
        for c in range(num_classes)
    ]
    counts = objects[present]
    return {
        "per_class": rows,
        "head": head,
        "tail": int(present[counts.argmin()]) if len(present) else None,
        "absent": np.flatnonzero(objects == 0).tolist(),
        "imbalance_ratio": ratio(counts.max(), counts.min()) if len(present) else None,
        "cb_beta": cb_beta,
        "gini": gini(objects),
    }


def class_names(table: ObjectTable, num_classes: int) -> list[str]:
    """Return K names; a class whose dataset states no name is called by its index."""
    known = list(table.class_names[:num_classes])
    return known + [f"class {c}" for c in range(len(known), num_classes)]


def class_groups(images: np.ndarray) -> list[str | None]:
    """
    Return "rare", "common" or "frequent" for each class; None for a class without images.

    Args:
        images: (K,), images with at least one object of the class.
    """
    present = np.flatnonzero(images)
    groups: list[str | None] = [None] * len(images)
    if len(images) < FEWEST_FOR_LVIS:
        third = np.array_split(present[np.argsort(images[present], kind="stable")], 3)
        for name, members in zip(("frequent", "common", "rare"), reversed(third), strict=True):
            for c in members:
                groups[c] = name
        return groups
    for c in present:
        groups[c] = "rare" if images[c] <= RARE else "common" if images[c] <= COMMON else "frequent"
    return groups


def gini(counts: np.ndarray) -> float | None:
    """Return the Gini coefficient of counts (K,): 0 if they are equal; None if all are 0."""
    total, num = counts.sum(), len(counts)
    if not total:
        return None
    ascending = np.sort(counts)
    position = np.arange(1, num + 1)
    return float(((2 * position - num - 1) * ascending).sum() / (num * total))


def _image_class_pairs(table: ObjectTable) -> np.ndarray:
    """Return the distinct pairs (image, class) of the objects, (pairs, 2)."""
    of_object = np.stack([table.image, table.classes], axis=1)[table.is_object]
    return np.unique(of_object, axis=0)


def _images_with(head: int, pairs: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the images of each class that also have an object of the head class, (K,)."""
    has_head = np.isin(pairs[:, 0], pairs[pairs[:, 1] == head, 0])
    counts: np.ndarray = np.bincount(pairs[has_head, 1], minlength=num_classes)
    return counts
