"""
Images of the training set kept in memory: read, decoded and, where each is always resized to one
size, resized once instead of once an epoch. The pixels, the boxes and the draws of the random
generator are those of Detectron2's mapper.

Detectron2 reads an image in the middle of its mapper's `__call__`, where a subclass cannot come in
between. The mapper here states that method for what the detectors of this package are trained on,
images and boxes; whatever else there is to load, it refuses.
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
    What maps the images of the training set: Detectron2's own mapper where nothing else is asked
    for.

    Args:
        crowds: whether the detector is told the crowd regions.

    Raises:
        ValueError: `MODEL.FOCAL.DATA.IMAGE_CACHE_MIB` is no integer >= 0, or more than boxes is
            loaded with it.
    """
    if bytes_per_worker(cfg) == 0:
        mapper = CrowdDatasetMapper if crowds else DatasetMapper
    else:
        mapper = CachedCrowdDatasetMapper if crowds else CachedDatasetMapper
    return mapper(cfg, is_train=True)


def bytes_per_worker(cfg: CfgNode) -> int:
    """
    Of `MODEL.FOCAL.DATA.IMAGE_CACHE_MIB`, the share of each worker of a data loader: they are
    processes, and each has a cache of its own.

    Raises:
        ValueError: it is no integer >= 0.
    """
    mib = cfg.MODEL.FOCAL.DATA.IMAGE_CACHE_MIB
    if not isinstance(mib, int) or mib < 0:
        raise ValueError(f"{KEY} must be an integer >= 0, got {mib!r}")
    return mib * 2**20 // max(cfg.DATALOADER.NUM_WORKERS, 1)


class CachedImage(NamedTuple):
    """
    An image as it comes out of the cache.

    Attributes:
        pixels: (H, W, C), read-only.
        size: height and width in the file, before any resize.
    """

    pixels: np.ndarray
    size: tuple[int, int]


class ImageCache:
    """
    The first images that fit; they stay, and the others are not kept.

    An epoch asks for each image once, in an order of its own. With room for a share c of them this
    finds c. To drop what was not used for longest, in favour of the newest, would find
    c + (1 - c) * ln(1 - c): 15 % where there is room for half.

    Args:
        max_bytes: of pixels, >= 0.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._images: dict[Hashable, CachedImage] = {}
        self._full = False

    def __len__(self) -> int:
        return len(self._images)

    def get(self, key: Hashable) -> CachedImage | None:
        """None: it is not kept."""
        return self._images.get(key)

    def offer(self, key: Hashable, pixels: np.ndarray, size: tuple[int, int]) -> None:
        """Keep a copy of a new image, if there is room."""
        if self.num_bytes + pixels.nbytes > self.max_bytes:
            self._say_that_it_is_full()
            return
        own = np.array(pixels, order="C")
        own.setflags(write=False)
        self._images[key] = CachedImage(own, size)
        self.num_bytes += own.nbytes

    def _say_that_it_is_full(self) -> None:
        if not self._full:
            logger.info(f"{KEY}: full at {len(self)} images, others are read each time")
        self._full = True


class CachedDatasetMapper(DatasetMapper):
    """
    Same interface as :class:`detectron2.data.DatasetMapper`, but an image is read once, if there is
    room for it in an :class:`ImageCache`. What is kept is the image as the file has it, or, where
    the first augmentation resizes all to one size, as that leaves it.

    For training with boxes only. A file that changes later is not read again.

    Args:
        max_bytes: of pixels, in each process that this mapper is copied to.

    Raises:
        ValueError: masks, keypoints or proposals are to be loaded.
    """

    @configurable
    def __init__(self, is_train: bool, *, max_bytes: int, **kwargs: Any) -> None:
        super().__init__(is_train, **kwargs)
        proposals = self.proposal_topk is not None
        if not is_train or self.use_instance_mask or self.use_keypoint or proposals:
            raise ValueError(
                f"{KEY} is for training with boxes only: MODEL.MASK_ON, MODEL.KEYPOINT_ON and "
                "MODEL.LOAD_PROPOSALS must be False"
            )
        self.cache = ImageCache(max_bytes)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        return {**super().from_config(cfg, is_train), "max_bytes": bytes_per_worker(cfg)}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        if "sem_seg_file_name" in dataset_dict:
            raise ValueError(f"{KEY} must be 0 where semantic segmentation is loaded")
        dataset_dict = copy.deepcopy(dataset_dict)
        image, transforms = self._augment(dataset_dict)
        dataset_dict["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if "annotations" in dataset_dict:
            annotations = dataset_dict.pop("annotations")
            dataset_dict["instances"] = _transform_boxes(annotations, transforms, image.shape[:2])
        return dataset_dict

    def _augment(self, dataset_dict: dict[str, Any]) -> tuple[np.ndarray, T.TransformList]:
        """The image, which is nobody else's, and how it was transformed."""
        augs: list[T.Augmentation] = self.augmentations.augs
        fixed = [augs[0]] if augs and _resizes_to_one_size(augs[0]) else []
        pixels, first = self._load(dataset_dict, fixed)
        aug_input = T.AugInput(pixels.copy())  # an augmentation may write into its image
        then = T.AugmentationList(augs[len(fixed) :])(aug_input)
        return aug_input.image, first + then

    def _load(
        self, dataset_dict: dict[str, Any], fixed: list[_Resize]
    ) -> tuple[np.ndarray, T.TransformList]:
        """
        The image after ``fixed``, which do the same to it each time, from memory or from its file;
        and their transforms.
        """
        file = dataset_dict["file_name"]
        resizes = ((x.short_edge_length[0], x.max_size, x.interp) for x in fixed)
        key = (file, self.image_format, *resizes)
        kept = self.cache.get(key)
        if kept is not None:
            outline = np.broadcast_to(np.uint8(0), kept.size)  # a shape, without the memory
            utils.check_image_size(dataset_dict, outline)
            return kept.pixels, _draw(fixed, outline)
        image = utils.read_image(file, format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        transforms = _draw(fixed, image)
        pixels = transforms.apply_image(image)
        self.cache.offer(key, pixels, image.shape[:2])
        return pixels, transforms


class CachedCrowdDatasetMapper(CrowdDatasetMapper, CachedDatasetMapper):
    """A :class:`CrowdDatasetMapper` whose images come from a cache."""


class _Resize(Protocol):
    """A `ResizeShortestEdge`, with the attributes that its constructor makes of its arguments."""

    short_edge_length: Sequence[int]
    max_size: int
    interp: int

    def get_transform(self, image: np.ndarray, /) -> T.Transform: ...


def _resizes_to_one_size(aug: T.Augmentation) -> TypeGuard[_Resize]:
    # the class itself: a subclass may resize in another way
    return type(aug) is T.ResizeShortestEdge and len(set(vars(aug)["short_edge_length"])) == 1


def _draw(augs: list[_Resize], image: np.ndarray) -> T.TransformList:
    """Their transforms, drawn as in stock: of equal sizes one is drawn too."""
    return T.TransformList([aug.get_transform(image) for aug in augs])


def _transform_boxes(
    annotations: list[dict[str, Any]], transforms: T.TransformList, image_size: tuple[int, int]
) -> Instances:
    """The objects, without crowds and without boxes that are empty."""
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
