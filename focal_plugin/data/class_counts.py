"""Number of objects per class of a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from detectron2.data import DatasetCatalog


def count_objects(names: Sequence[str], *, num_classes: int) -> list[int]:
    """
    Count the objects of registered datasets together; crowd regions and background do not count.

    Args:
        names: as in `DATASETS.TRAIN`.
        num_classes: K.

    Returns:
        K numbers, by Detectron2's class index.

    Raises:
        KeyError: a dataset is not registered.
        ValueError: the class of an annotation is outside 0..K-1.
    """
    counts = Counter(
        annotation["category_id"]
        for name in names
        for image in DatasetCatalog.get(name)
        for annotation in image.get("annotations", ())
        if not annotation.get("iscrowd", 0)
    )
    unknown = sorted(counts.keys() - set(range(num_classes)))
    if unknown:
        raise ValueError(
            f"datasets {names} have classes {unknown}, the model has 0..{num_classes - 1}"
        )
    return [counts[index] for index in range(num_classes)]
