"""
Cache of training images in memory.

Each image is read and decoded once instead of once per epoch. If all images are resized to one
size, they are also resized once. Pixels, boxes and random draws equal those of Detectron2's mapper.

Detectron2 reads an image inside its mapper's `__call__`, which a subclass cannot override in part.
The mapper here therefore implements that method for images and boxes. It rejects other inputs.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import Instances

from .crowd_mapper import CrowdDatasetMapper

logger = logging.getLogger(__name__)

KEY = "MODEL.FOCAL.DATA.IMAGE_CACHE_MIB"


def build_train_mapper(cfg: CfgNode, *, crowds: bool) -> DatasetMapper:
    """
    Return the mapper of the training set: Detectron2's own unless an option requires another.

    Args:
        crowds: True if the detector receives crowd regions.

    Raises:
        ValueError: `MODEL.FOCAL.DATA.IMAGE_CACHE_MIB` is not an integer >= 0, or the config loads
            more than boxes with a cache.
    """
    if bytes_per_worker(cfg) == 0:
        mapper = CrowdDatasetMapper if crowds else DatasetMapper
    else:
        mapper = CachedCrowdDatasetMapper if crowds else CachedDatasetMapper
    return mapper(cfg, is_train=True)


def bytes_per_worker(cfg: CfgNode) -> int:
    """
    Return the share of `MODEL.FOCAL.DATA.IMAGE_CACHE_MIB` of each data loader worker, in bytes.

    Workers are processes, and each has its own cache.

    Raises:
        ValueError: the option is not an integer >= 0.
    """
    mib = cfg.MODEL.FOCAL.DATA.IMAGE_CACHE_MIB
    if not isinstance(mib, int) or mib < 0:
        raise ValueError(f"{KEY} must be an integer >= 0, got {mib!r}")
    return mib * 2**20 // max(cfg.DATALOADER.NUM_WORKERS, 1)


class CachedImage(NamedTuple):
    """
    Cached image.

    Attributes:
        pixels: (H, W, C), read-only.
        size: height and width in the file, before any resize.
    """

    pixels: np.ndarray
    size: tuple[int, int]


class ImageCache:
    """
    Cache of the first images that fit; they are never evicted.

    An epoch requests each image once, in a new order. With room for a share c of the images, this
    cache has a hit rate of c. An LRU cache would have c + (1 - c) * ln(1 - c): 15 % if half of the
    images fit.

    Args:
        max_bytes: size limit of all pixels, >= 0.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._images: dict[Hashable, CachedImage] = {}
        self._full = False

    def __len__(self) -> int:
        return len(self._images)

    def get(self, key: Hashable) -> CachedImage | None:
        """Return a cached image, or None if it is not cached."""
        return self._images.get(key)

    def offer(self, key: Hashable, pixels: np.ndarray, size: tuple[int, int]) -> None:
        """Store a copy of a new image if it fits."""
        if self.num_bytes + pixels.nbytes > self.max_bytes:
            self._say_that_it_is_full()
            return
        own = np.array(pixels, order="C")
        own.setflags(write=False)
        self._images[key] = CachedImage(own, size)
        self.num_bytes += own.nbytes

    def _say_that_it_is_full(self) -> None:
        if not self._full:
            logger.info(f"{KEY}: cache is full with {len(self)} images; others are read each time")
        self._full = True


class CachedDatasetMapper(DatasetMapper):
    """
    Dataset mapper with an :class:`ImageCache`.

    It has the interface of :class:`detectron2.data.DatasetMapper`, but reads each cached image only
    once. It caches the image as read from the file. If the first augmentation resizes all images to
    one size, it caches the resized image.

    It supports training with boxes only. It does not notice a file that changes later.

    Args:
        max_bytes: size limit of the pixels in each process that holds a copy of this mapper.

    Raises:
        ValueError: the config loads masks, keypoints or proposals.
    """

    @configurable
    def __init__(self, is_train: bool, *, max_bytes: int, **kwargs: Any) -> None:
        super().__init__(is_train, **kwargs)
        proposals = self.proposal_topk is not None
        if not is_train or self.use_instance_mask or self.use_keypoint or proposals:
            raise ValueError(
                f"{KEY} supports training with boxes only: MODEL.MASK_ON, MODEL.KEYPOINT_ON and "
                "MODEL.LOAD_PROPOSALS must be False"
            )
        self.cache = ImageCache(max_bytes)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        return {**super().from_config(cfg, is_train), "max_bytes": bytes_per_worker(cfg)}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        if "sem_seg_file_name" in dataset_dict:
            raise ValueError(f"{KEY} must be 0 if semantic segmentation is loaded")
        dataset_dict = copy.deepcopy(dataset_dict)
        image, transforms = self._augment(dataset_dict)
        dataset_dict["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if "annotations" in dataset_dict:
            annotations = dataset_dict.pop("annotations")
            dataset_dict["instances"] = _transform_boxes(annotations, transforms, image.shape[:2])
        return dataset_dict

    def _augment(self, dataset_dict: dict[str, Any]) -> tuple[np.ndarray, T.TransformList]:
        """Return the augmented image, as a copy that the caller may change, and its transforms."""
        augs: list[T.Augmentation] = self.augmentations.augs
        fixed = [augs[0]] if augs and _resizes_to_one_size(augs[0]) else []
        pixels, first = self._load(dataset_dict, fixed)
        aug_input = T.AugInput(pixels.copy())  # an augmentation may modify its image
        then = T.AugmentationList(augs[len(fixed) :])(aug_input)
        return aug_input.image, first + then

    def _load(
        self, dataset_dict: dict[str, Any], fixed: list[_Resize]
    ) -> tuple[np.ndarray, T.TransformList]:
        """
        Return the image after ``fixed``, from memory or from its file, and their transforms.

        ``fixed`` are augmentations with the same result each time.
        """
        file = dataset_dict["file_name"]
        resizes = ((x.short_edge_length[0], x.max_size, x.interp) for x in fixed)
        key = (file, self.image_format, *resizes)
        kept = self.cache.get(key)
        if kept is not None:
            outline = np.broadcast_to(np.uint8(0), kept.size)  # shape only, no memory
            utils.check_image_size(dataset_dict, outline)
            return kept.pixels, _draw(fixed, outline)
        image = utils.read_image(file, format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        transforms = _draw(fixed, image)
        pixels = transforms.apply_image(image)
        self.cache.offer(key, pixels, image.shape[:2])
        return pixels, transforms


class CachedCrowdDatasetMapper(CrowdDatasetMapper, CachedDatasetMapper):
    """A :class:`CrowdDatasetMapper` with an image cache."""


class _Resize(Protocol):
    """A `ResizeShortestEdge` with the attributes that its constructor sets from its arguments."""

    short_edge_length: Sequence[int]
    max_size: int
    interp: int

    def get_transform(self, image: np.ndarray, /) -> T.Transform: ...


def _resizes_to_one_size(aug: T.Augmentation) -> TypeGuard[_Resize]:
    # Exact class: a subclass may resize in another way.
    return type(aug) is T.ResizeShortestEdge and len(set(vars(aug)["short_edge_length"])) == 1


def _draw(augs: list[_Resize], image: np.ndarray) -> T.TransformList:
    """Return the drawn transforms; as in Detectron2, a size is drawn even if all are equal."""
    return T.TransformList([aug.get_transform(image) for aug in augs])


def _transform_boxes(
    annotations: list[dict[str, Any]], transforms: T.TransformList, image_size: tuple[int, int]
) -> Instances:
    """Return the objects without crowd regions and empty boxes."""
    unused = ("segmentation", "keypoints")
    objects = [
        utils.transform_instance_annotations(
            {name: value for name, value in annotation.items() if name not in unused},
            transforms,
            image_size,
        )
        for annotation in annotations
        if annotation.get("iscrowd", 0) == 0
    ]
    return utils.filter_empty_instances(utils.annotations_to_instances(objects, image_size))
