"""Number of objects and of images per class of a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

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
    return _count(names, (x for _, x in _classes(names)), num_classes)


def count_images(names: Sequence[str], *, num_classes: int) -> list[int]:
    """
    Count the images with an object of each class, in registered datasets together.

    Arguments and errors are those of :func:`count_objects`.

    Returns:
        K numbers, by Detectron2's class index.
    """
    return _count(names, (x for _, x in set(_classes(names))), num_classes)


def _classes(names: Sequence[str]) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield the image and the class of each object; an image is its dataset and its index."""
    for dataset, name in enumerate(names):
        for index, image in enumerate(DatasetCatalog.get(name)):
            for annotation in image.get("annotations", ()):
                if not annotation.get("iscrowd", 0):
                    yield (dataset, index), annotation["category_id"]


def _count(names: Sequence[str], classes: Iterable[int], num_classes: int) -> list[int]:
    counts = Counter(classes)
    unknown = sorted(counts.keys() - set(range(num_classes)))
    if unknown:
        raise ValueError(
            f"datasets {names} have classes {unknown}, the model has 0..{num_classes - 1}"
        )
    return [counts[index] for index in range(num_classes)]
