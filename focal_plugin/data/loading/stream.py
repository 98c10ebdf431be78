"""
The training set as a stream: batch b of a run depends only on the seed and on b.

The image and the augmentation of sample i depend neither on the number of workers nor on earlier
draws. A resumed run continues with its next batch and does not read the images of earlier batches.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.data.build import trivial_batch_collator
from detectron2.data.common import DatasetFromList
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ...checks import check_count
from ...random_state import seed_from, seeded
from ...signals import JOB_SIGNALS
from ..ignore_regions import EVERY_CLASS
from ..labeled_categories import LABELED_CLASSES
from .class_aware import ClassAwareTrainingSampler, classes_of
from .training_set import load_training_set

logger = logging.getLogger(__name__)

UNREADABLE_KEY = "MODEL.FOCAL.DATA.MAX_UNREADABLE_IMAGES"
# Exceptions of Pillow for a file that is truncated or not an image
UNREADABLE = (OSError, EOFError, SyntaxError, Image.DecompressionBombError)
REMEDY = (
    "Repair the file or remove it from the annotations; `focal-plugin check-data --images` finds "
    f"all such files, and {UNREADABLE_KEY} lets a run replace some of them"
)
LISTED = 20

Mapper = Callable[[dict[str, Any]], dict[str, Any]]
"""Function from a dataset dict to the model's input."""


class MapDataset(Protocol):
    """Dataset dicts by index: a list, or a PyTorch dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


class ImageReadError(OSError):
    """Error for an unreadable training image; the message names its file and its id."""


def build_train_loader(cfg: CfgNode, mapper: Mapper) -> Iterable[list[dict[str, Any]]]:
    """
    Build a :class:`TrainLoader` with the batches of Detectron2's `build_detection_train_loader`.

    Images, filters, samplers and batches are the same. Invalid boxes are dropped if
    `MODEL.FOCAL.DATA.CHECK` is "drop". There is one more sampler,
    :class:`~focal_plugin.data.loading.class_aware.ClassAwareTrainingSampler`.

    Args:
        cfg: with a `SEED` >= 0.
        mapper: loads and augments the image of a dataset dict.

    Returns:
        Detectron2's own loader if the dataset is a PyTorch `IterableDataset`.

    Raises:
        ValueError: there is no sampler named `DATALOADER.SAMPLER_TRAIN`, or it requires objects and
            there are none; or images without a size are to be grouped by aspect ratio.
    """
    dataset: MapDataset | IterableDataset[Any] = load_training_set(cfg)
    if isinstance(dataset, IterableDataset):
        logger.warning(
            f"{', '.join(cfg.DATASETS.TRAIN)} cannot be indexed: a resumed run does not see the "
            "same images as an uninterrupted run"
        )
        return build_detection_train_loader(cfg, mapper=mapper, dataset=dataset)
    max_unreadable = check_count(UNREADABLE_KEY, cfg.MODEL.FOCAL.DATA.MAX_UNREADABLE_IMAGES, low=0)
    batches = Batches(
        _build_sampler(cfg, dataset, mapper),
        _images_per_process(cfg.SOLVER.IMS_PER_BATCH),
        wide=_wide_images(dataset) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
    )
    stored = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    samples = Samples(stored, mapper, seed=cfg.SEED, max_unreadable=max_unreadable)
    loader = TrainLoader(samples, batches, num_workers=cfg.DATALOADER.NUM_WORKERS)
    if isinstance(dataset, list):
        loader.num_partly_labeled = sum(LABELED_CLASSES in image for image in dataset)
    return loader


class Sample(NamedTuple):
    """
    One sample of the stream.

    Attributes:
        mapped: the model's input. None: neither the image nor a replacement can be read.
        unreadable: file name -> message, for the images that could not be read.
    """

    mapped: dict[str, Any] | None
    unreadable: dict[str, str]


class Samples(Dataset[Sample]):
    """
    Dataset that loads a sample by its number in the stream and its image index in the dataset.

    The random draws of the mapper depend only on the seed and the number.

    Args:
        dataset: dataset dicts by index.
        mapper: loads and augments the image of a dataset dict.
        seed: >= 0.
        max_unreadable: >= 0. 0: an unreadable image raises :class:`ImageReadError`. Otherwise
            another image replaces it, chosen by the seed and the number, after at most this many
            attempts.
    """

    def __init__(
        self, dataset: MapDataset, mapper: Mapper, *, seed: int, max_unreadable: int = 0
    ) -> None:
        self.dataset = dataset
        self.mapper = mapper
        self.seed = seed
        self.max_unreadable = max_unreadable

    def __getitem__(self, number_and_index: tuple[int, int]) -> Sample:
        number, index = number_and_index
        unreadable: dict[str, str] = {}
        for candidate in (index, *self._others(number, index)):
            image = self.dataset[candidate]
            try:
                with seeded(self.seed, "sample", number):
                    return Sample(self.mapper(image), unreadable)
            except UNREADABLE as error:
                message = (
                    f"image {image.get('image_id')!r}, {_file_name(image)}, cannot be read: "
                    f"{type(error).__name__}: {error}"
                )
                if self.max_unreadable == 0:
                    raise ImageReadError(f"{message}. {REMEDY}") from error
                unreadable[_file_name(image)] = message
        return Sample(None, unreadable)

    def _others(self, number: int, index: int) -> list[int]:
        """Return the indices of the replacements to try for an image, all different."""
        draw = random.Random(seed_from(self.seed, "instead", number))
        size = len(self.dataset)
        drawn = draw.sample(range(size), min(self.max_unreadable + 1, size))
        return [x for x in drawn if x != index][: self.max_unreadable]


class Batches:
    """
    Batches of this process as lists of (number in the stream, index in the dataset).

    They are endless if the sampler is, and iteration reads no image.

    Args:
        sampler: a sampler like Detectron2's. With n processes, process r receives samples r, r + n,
            ...
        batch_size: images per process, >= 1.
        wide: for each image, True if it is wider than high. A batch then never mixes both kinds,
            as in Detectron2's `AspectRatioGroupedDataset`.
    """

    def __init__(
        self, sampler: Iterable[int], batch_size: int, *, wide: Sequence[bool] | None = None
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.wide = wide
        self.rank, self.num_processes = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        numbers = itertools.count(self.rank, self.num_processes)
        begun: tuple[list[tuple[int, int]], ...] = ([], [])
        for number, index in zip(numbers, self.sampler, strict=False):
            batch = begun[self.wide is not None and self.wide[index]]
            batch.append((number, index))
            if len(batch) == self.batch_size:
                yield batch[:]
                batch.clear()


class TrainLoader:
    """
    Iterable over the batches of a run, starting at :attr:`start_batch`.

    It reads no image and starts no worker before the first batch is requested.

    It leaves the random generators of the training process unchanged. Workers ignore the signals
    that end or interrupt a job, because a scheduler sends them to all processes of the job. The
    training process decides when its workers end.

    Args:
        samples: loads a sample.
        batches: the samples of each batch.
        num_workers: number of worker processes, >= 0. 0: the training process loads the images.

    Attributes:
        start_batch: number of batches to skip; set it before iterating.
        unreadable: file name -> message, for the images that could not be read so far.
        num_partly_labeled: number of images in the dataset that state their labeled classes.
    """

    def __init__(self, samples: Samples, batches: Batches, *, num_workers: int) -> None:
        self.samples = samples
        self.batches = batches
        self.num_workers = num_workers
        self.start_batch = 0
        self.num_partly_labeled = 0
        self.unreadable: dict[str, str] = {}

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """
        Iterate over the batches.

        Raises:
            ImageReadError: an image cannot be read, or more than `MAX_UNREADABLE_IMAGES` of them.
        """
        for batch in self._load():
            for sample in batch:
                self._count_unreadable(sample)
            yield [sample.mapped for sample in batch if sample.mapped is not None]

    def _load(self) -> Iterator[list[Sample]]:
        loader = DataLoader(
            self.samples,
            batch_sampler=itertools.islice(self.batches, self.start_batch, None),
            num_workers=self.num_workers,
            collate_fn=trivial_batch_collator,
            worker_init_fn=_obey_the_training_process_only,
            # Without its own generator it would draw from that of the training process.
            generator=torch.Generator().manual_seed(self.samples.seed),
        )
        with _job_signals_blocked():  # workers inherit the blocked signals from their start
            batches = iter(loader)
        return batches

    def _count_unreadable(self, sample: Sample) -> None:
        allowed = self.samples.max_unreadable
        for file, message in sample.unreadable.items():
            if file not in self.unreadable:
                self.unreadable[file] = message
                logger.warning(
                    f"{message}; another image replaces it "
                    f"({len(self.unreadable)} of {allowed} allowed by {UNREADABLE_KEY})"
                )
        if sample.mapped is None or len(self.unreadable) > allowed:
            listed = "\n  ".join(list(self.unreadable.values())[:LISTED])
            raise ImageReadError(
                f"{len(self.unreadable)} images cannot be read, {UNREADABLE_KEY} is {allowed} and "
                f"the dataset has {len(self.samples.dataset)} images:\n  {listed}\n{REMEDY}"
            )


def _build_sampler(cfg: CfgNode, dataset: MapDataset, mapper: Mapper) -> Iterable[int]:
    """Build the sampler with the name and the seed of the config."""
    name = cfg.DATALOADER.SAMPLER_TRAIN
    logger.info(f"Using training sampler {name}")
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset), seed=cfg.SEED)
    if name == "RepeatFactorTrainingSampler":
        # Detectron2 0.6 has no REPEAT_SQRT.
        sqrt = {"sqrt": cfg.DATALOADER.REPEAT_SQRT} if "REPEAT_SQRT" in cfg.DATALOADER else {}
        images = [_without_class_free(dataset[index]) for index in range(len(dataset))]
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            images, cfg.DATALOADER.REPEAT_THRESHOLD, **sqrt
        )
        return RepeatFactorTrainingSampler(factors, seed=cfg.SEED)
    if name == "ClassAwareTrainingSampler":
        classes = [classes_of(dataset[index]) for index in range(len(dataset))]
        return ClassAwareTrainingSampler(classes, seed=cfg.SEED)
    with seeded(cfg.SEED, "sampler"):  # the other samplers draw their seed
        return build_detection_train_loader.from_config(cfg, mapper, dataset=dataset)["sampler"]


def _without_class_free(image: dict[str, Any]) -> dict[str, Any]:
    """Return the annotations of an image without the ignore regions of every class."""
    return {"annotations": [x for x in image["annotations"] if not x.get(EVERY_CLASS)]}


def _images_per_process(images_per_batch: int) -> int:
    num_processes = comm.get_world_size()
    message = (
        f"SOLVER.IMS_PER_BATCH must be a multiple of the number of processes, {num_processes}, "
        f"and > 0, got {images_per_batch}"
    )
    assert images_per_batch > 0, message
    assert images_per_batch % num_processes == 0, message
    return images_per_batch // num_processes


def _wide_images(dataset: MapDataset) -> list[bool]:
    wide = []
    for index in range(len(dataset)):
        image = dataset[index]
        if "width" not in image or "height" not in image:
            raise ValueError(
                f"image {image.get('image_id')!r}, {_file_name(image)}, has no width and height, "
                "which DATALOADER.ASPECT_RATIO_GROUPING requires: add them, or set it to False"
            )
        wide.append(image["width"] > image["height"])
    return wide


def _file_name(image: dict[str, Any]) -> str:
    return str(image.get("file_name"))


# Signals that a scheduler sends to all processes of a job. Without sigwaitinfo (macOS), a worker
# cannot tell the sender and would ignore the training process too; there these signals end it.
_WAITED_FOR = set(JOB_SIGNALS) if hasattr(signal, "sigwaitinfo") else set()


@contextmanager
def _job_signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey_the_training_process_only(worker_id: int) -> None:
    """Set up a worker's signals; a forked worker has inherited the blocked signals."""
    if _WAITED_FOR:
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
        # Not os.getppid(), which may be a fork server
        parent = multiprocessing.parent_process()
        assert parent is not None
        threading.Thread(target=_end_when_told, args=(parent.pid,), daemon=True).start()


def _end_when_told(training_process: int) -> None:
    """
    End this worker when the training process sends SIGTERM.

    A training process that ends with an error sends SIGTERM to its workers and joins them. If a
    worker ignored SIGTERM from every sender, the training process would wait forever.
    """
    while True:
        received = signal.sigwaitinfo(_WAITED_FOR)
        if received.si_signo == signal.SIGTERM and received.si_pid == training_process:
            os._exit(0)
