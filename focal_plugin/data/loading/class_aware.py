"""Class-aware sampling: every class is drawn equally often, whatever its number of images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.utils import comm
from torch.utils.data import Sampler


class ClassAwareTrainingSampler(Sampler[int]):
    """
    Endless stream of images, for each of which a class is drawn first, then an image with it.

    The classes are a shuffled list that is shuffled again at its end, and so are the images of each
    class (arXiv:1512.05830 section 3.2). So K draws have each of K classes once, and a class shows
    each of its images before one repeats. An image with several classes is in the list of each. An
    image without objects is never drawn.

    It has the interface of Detectron2's samplers: with n processes, process r receives the images
    r, r + n, ... of the stream, which depends only on the seed.

    Args:
        classes: for each image, the classes of its objects, in any order.
        seed: >= 0, the same in all processes.

    Raises:
        ValueError: no image has an object.
    """

    def __init__(self, classes: Sequence[set[int]], *, seed: int) -> None:
        self._seed = seed
        self._images: dict[int, list[int]] = {}
        for index, of_image in enumerate(classes):
            for each in sorted(of_image):
                self._images.setdefault(each, []).append(index)
        if not self._images:
            raise ValueError(
                "DATALOADER.SAMPLER_TRAIN ClassAwareTrainingSampler requires an image with an "
                "object, and the training set has none"
            )
        self._rank, self._num_processes = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._stream(), self._rank, None, self._num_processes)

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        images = {each: _cycle(self._images[each], generator) for each in sorted(self._images)}
        for each in _cycle(list(images), generator):
            yield next(images[each])


def classes_of(image: dict[str, Any]) -> set[int]:
    """Return the classes of the objects in a dataset dict; crowd regions are no objects."""
    annotations = image.get("annotations", ())
    return {x["category_id"] for x in annotations if not x.get("iscrowd", 0)}


def _cycle(values: list[int], generator: torch.Generator) -> Iterator[int]:
    """Yield all values in a random order, again and again."""
    while True:
        for place in torch.randperm(len(values), generator=generator).tolist():
            yield values[place]
