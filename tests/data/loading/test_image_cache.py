"""Image cache: the same batches as from files, a bounded size, and one read per image."""

import copy
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager
from PIL import Image

from focal_plugin import get_cfg
from focal_plugin.data import ShapesSpec, draw_dataset, register_shapes
from focal_plugin.data.loading.crowd_mapper import CROWD_LABEL, CrowdDatasetMapper
from focal_plugin.data.loading.image_cache import (
    CachedCrowdDatasetMapper,
    CachedDatasetMapper,
    ImageCache,
    build_train_mapper,
)
from focal_plugin.engine import Trainer

from ...cached_configs import read_cfg
from ...conftest import DATASET_ROOT

KEY = "MODEL.FOCAL.DATA.IMAGE_CACHE_MIB"
NUM_IMAGES, SIZE = 12, 128


@pytest.fixture(scope="module")
def folder():
    """Register twelve images, some with a crowd region, as "cached_shapes"."""
    folder = Path(DATASET_ROOT) / "cached_shapes"
    spec = ShapesSpec(images=NUM_IMAGES, image_size=SIZE, crowds=0.5, seed=5)
    draw_dataset(spec, folder)
    register_shapes("cached_shapes", spec, folder)
    return folder


@pytest.fixture
def cfg(folder):
    cfg = read_cfg("Shapes-Detection/retinanet_small.yaml")
    cfg.DATASETS.TRAIN = ("cached_shapes",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.MODEL.FOCAL.DATA.IMAGE_CACHE_MIB = 64
    return cfg


@pytest.fixture
def opened(monkeypatch):
    """Return a list that receives the name of each opened image."""
    names, stock = [], PathManager.open

    def counting(path, *args, **kwargs):
        names.append(Path(path).name)
        return stock(path, *args, **kwargs)

    monkeypatch.setattr(PathManager, "open", counting)
    return names


def epochs(mapper, dicts, count=3):
    """Map all images ``count`` times; return the results and the state of the generator."""
    seed_all_rng(4)
    images = [mapper(copy.deepcopy(x)) for _ in range(count) for x in dicts]
    return images, np.random.random_sample(2).tolist()


def assert_same(ours, stock):
    ours, stock = dict(ours), dict(stock)
    image, expected = ours.pop("image"), stock.pop("image")
    assert image.dtype == expected.dtype
    assert torch.equal(image, expected)
    ours_has, stock_has = ours.pop("instances", None), stock.pop("instances", None)
    assert (ours_has is None) == (stock_has is None)
    if stock_has is not None:
        assert ours_has.image_size == stock_has.image_size
        assert ours_has.get_fields().keys() == stock_has.get_fields().keys()
        assert torch.equal(ours_has.gt_boxes.tensor, stock_has.gt_boxes.tensor)
        assert torch.equal(ours_has.gt_classes, stock_has.gt_classes)
    assert ours == stock


def assert_same_epochs(mapper, stock_mapper, dicts):
    ours, our_draws = epochs(mapper, dicts)
    stock, stock_draws = epochs(stock_mapper, dicts)
    for mine, theirs in zip(ours, stock, strict=True):
        assert_same(mine, theirs)
    assert our_draws == stock_draws


AUGMENTATIONS = {
    "one size": [],
    "one size, larger": ["INPUT.MIN_SIZE_TRAIN", (200,)],
    "one size, but drawn": ["INPUT.MIN_SIZE_TRAIN", (160, 160)],
    "one size, limited by the longer side": [
        *("INPUT.MIN_SIZE_TRAIN", (300,), "INPUT.MAX_SIZE_TRAIN", 240)
    ],
    "a range of one size": [
        *("INPUT.MIN_SIZE_TRAIN", (96, 96), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range")
    ],
    "several sizes": ["INPUT.MIN_SIZE_TRAIN", (96, 128, 200)],
    "a range of sizes": [
        *("INPUT.MIN_SIZE_TRAIN", (96, 200), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range")
    ],
    "a crop": ["INPUT.CROP.ENABLED", True, "INPUT.MIN_SIZE_TRAIN", (160,)],
    "no resize": ["INPUT.MIN_SIZE_TRAIN", (0,)],
    "vertical flip": ["INPUT.RANDOM_FLIP", "vertical"],
    "no flip": ["INPUT.RANDOM_FLIP", "none", "INPUT.MIN_SIZE_TRAIN", (160,)],
    "gray": ["INPUT.FORMAT", "L", "INPUT.RANDOM_FLIP", "none"],
    "RGB": ["INPUT.FORMAT", "RGB", "INPUT.MIN_SIZE_TRAIN", (160,)],
    "floating": ["INPUT.FORMAT", "YUV-BT.601", "INPUT.MIN_SIZE_TRAIN", (160,)],
}


WITH_CROWDS = ("one size, larger", "several sizes", "a crop", "gray")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cached", "stock"),
    [
        *((name, CachedDatasetMapper, DatasetMapper) for name in AUGMENTATIONS),
        *((name, CachedCrowdDatasetMapper, CrowdDatasetMapper) for name in WITH_CROWDS),
    ],
)
def test_three_epochs_are_those_of_the_mapper_without_a_cache(cfg, opened, name, cached, stock):
    cfg.merge_from_list(AUGMENTATIONS[name])
    dicts = DatasetCatalog.get("cached_shapes")
    assert_same_epochs(cached(cfg, is_train=True), stock(cfg, is_train=True), dicts)
    assert len(opened) == NUM_IMAGES + 3 * NUM_IMAGES  # ours reads one epoch, Detectron2's three


def test_crowds_are_still_loaded(cfg):
    images, _ = epochs(build_train_mapper(cfg, crowds=True), DatasetCatalog.get("cached_shapes"))
    last = images[-NUM_IMAGES:]
    assert any((image["instances"].gt_classes == CROWD_LABEL).any() for image in last)


def test_images_of_other_shapes_and_what_is_not_used_of_an_annotation(cfg, tmp_path):
    random = np.random.RandomState(0)
    dicts = []
    for index, (height, width) in enumerate([(40, 90), (90, 40), (64, 64)]):
        file = tmp_path / f"{index}.jpg"
        Image.fromarray(random.randint(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
        object_ = {
            "bbox": [3.7, 5.1, 20.3, 11.9],
            "bbox_mode": 1,
            "category_id": 2,
            "segmentation": [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]],
            "keypoints": [5.0, 5.0, 2],
        }
        crowd = {**object_, "iscrowd": 1, "segmentation": {"counts": "none", "size": [1, 1]}}
        empty = {**object_, "bbox": [3, 3, 0, 5]}
        dicts.append({"file_name": str(file), "image_id": index, "more": [index]})
        dicts[-1]["annotations"] = [object_, crowd, empty][: index + 1]
    dicts[1].pop("annotations")
    cfg.INPUT.MIN_SIZE_TRAIN = (77,)
    assert_same_epochs(
        CachedDatasetMapper(cfg, is_train=True), DatasetMapper(cfg, is_train=True), dicts
    )


def test_a_dataset_dict_is_not_changed(cfg):
    dicts = DatasetCatalog.get("cached_shapes")
    before = copy.deepcopy(dicts)
    mapper = CachedDatasetMapper(cfg, is_train=True)
    for image in [*dicts, *dicts]:
        mapper(image)
    assert dicts == before


def test_a_wrong_size_in_the_annotations_is_found_from_memory_too(cfg):
    image = DatasetCatalog.get("cached_shapes")[0]
    mapper = CachedDatasetMapper(cfg, is_train=True)
    mapper(image)
    assert len(mapper.cache) == 1
    with pytest.raises(SizeMismatchError, match="Mismatched image shape"):
        mapper({**image, "width": SIZE + 1})


class Blacken(T.Augmentation):
    """Augmentation that modifies its input image, which nothing prevents."""

    def get_transform(self, image):
        image[:] = 0
        return T.NoOpTransform()


@pytest.mark.parametrize("first", [[], [T.ResizeShortestEdge((160,), sample_style="choice")]])
@pytest.mark.parametrize("image_format", ["BGR", "L"])
def test_cached_images_survive_augmentations_and_models_that_modify_them(cfg, first, image_format):
    dicts = DatasetCatalog.get("cached_shapes")

    def mapper_of(kind, augmentations, **kwargs):
        return kind(is_train=True, augmentations=augmentations, image_format=image_format, **kwargs)

    mapper = mapper_of(CachedDatasetMapper, [*first, Blacken()], max_bytes=2**24)
    images, _ = epochs(mapper, dicts, count=1)
    assert not any(image["image"].any() for image in images)
    mapper.augmentations = T.AugmentationList(first)
    for image in epochs(mapper, dicts, count=1)[0]:
        image["image"].zero_()
    assert_same_epochs(mapper, mapper_of(DatasetMapper, first), dicts)


def test_another_size_or_format_is_another_image(cfg):
    dicts = DatasetCatalog.get("cached_shapes")[:2]
    mapper = CachedDatasetMapper(cfg, is_train=True)
    for size, image_format in [(128, "BGR"), (160, "BGR"), (160, "RGB"), (128, "RGB")]:
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.FORMAT = (size,), image_format
        stock = DatasetMapper(cfg, is_train=True)
        mapper.augmentations, mapper.image_format = stock.augmentations, image_format
        assert_same_epochs(mapper, stock, dicts)
    assert len(mapper.cache) == 8


# Size limit


@pytest.mark.parametrize(
    ("opts", "fitting"),
    [
        (["INPUT.MIN_SIZE_TRAIN", (256,)], 5),  # resized: 2**20 // (3 * 256**2)
        (["INPUT.MIN_SIZE_TRAIN", (256, 512)], NUM_IMAGES),  # cached as in the file: all fit
        (["INPUT.FORMAT", "YUV-BT.601", "INPUT.MIN_SIZE_TRAIN", (128,)], 2),  # 8 bytes per value
    ],
)
def test_the_size_limit_holds_and_other_images_are_read(cfg, opened, opts, fitting):
    cfg.merge_from_list([*opts, KEY, 1])
    dicts = DatasetCatalog.get("cached_shapes")
    mapper = CachedDatasetMapper(cfg, is_train=True)
    assert_same_epochs(mapper, DatasetMapper(cfg, is_train=True), dicts)
    kept = list(mapper.cache._images.values())
    assert len(kept) == len(mapper.cache) == fitting
    assert sum(x.pixels.nbytes for x in kept) == mapper.cache.num_bytes <= 2**20
    del opened[:]
    epochs(mapper, dicts, count=1)
    assert opened == [Path(x["file_name"]).name for x in dicts[fitting:]]


def test_no_more_memory_is_held_than_counted(cfg):
    """A view, such as BGR of RGB, would keep its whole base in memory."""
    mapper = CachedDatasetMapper(cfg, is_train=True)
    epochs(mapper, DatasetCatalog.get("cached_shapes"), count=1)
    for image in mapper.cache._images.values():
        assert image.pixels.base is None
        assert image.pixels.flags.c_contiguous
        assert not image.pixels.flags.writeable


def test_the_first_that_fit_are_kept():
    cache = ImageCache(max_bytes=100)
    for key, num_bytes in [("a", 60), ("b", 50), ("c", 40), ("d", 1)]:
        cache.offer(key, np.zeros((num_bytes, 1, 1), np.uint8), (num_bytes, 1))
    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c"]
    assert cache.num_bytes == 100


def test_a_full_cache_is_logged_once(caplog):
    caplog.set_level("INFO")
    cache = ImageCache(max_bytes=1)
    for key in "abc":
        cache.offer(key, np.zeros((1, 1, 1), np.uint8), (1, 1))
    assert [x.getMessage() for x in caplog.records] == [
        f"{KEY}: cache is full with 1 images; others are read each time"
    ]


@pytest.mark.parametrize("capacity", [20, 50, 80])
def test_keeping_the_first_images_has_more_hits_than_lru(capacity):
    """The class docstring states these numbers."""
    random, share = np.random.RandomState(0), capacity / 100
    order = [image for _ in range(300) for image in random.permutation(100)]
    cache, last_used = ImageCache(max_bytes=capacity), {}
    found = found_last_used = 0
    for image in order:
        found += cache.get(image) is not None
        if cache.get(image) is None:
            cache.offer(image, np.zeros((1, 1, 1), np.uint8), (1, 1))
        found_last_used += last_used.pop(image, False)
        last_used[image] = True  # the newest key of a dict is the last
        if len(last_used) > capacity:
            del last_used[next(iter(last_used))]
    assert found / len(order) == pytest.approx(share, abs=0.02)
    expected = share + (1 - share) * np.log(1 - share)
    assert found_last_used / len(order) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
def test_the_workers_share_the_size_limit(cfg, num_workers):
    cfg.merge_from_list([KEY, 10, "DATALOADER.NUM_WORKERS", num_workers])
    share = CachedDatasetMapper(cfg, is_train=True).cache.max_bytes
    assert share == 10 * 2**20 // max(num_workers, 1)


# Trainer


ARCHITECTURES = {
    "FocalRetinaNet": (["MODEL.META_ARCHITECTURE", "FocalRetinaNet"], CachedCrowdDatasetMapper),
    "RetinaNet": (["MODEL.META_ARCHITECTURE", "RetinaNet"], CachedDatasetMapper),
    "Faster R-CNN": (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], CachedDatasetMapper),
    "FocalRPN, FocalROIHeads": (
        [
            *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),
            *("MODEL.PROPOSAL_GENERATOR.NAME", "FocalRPN", "MODEL.ROI_HEADS.NAME", "FocalROIHeads"),
        ],
        CachedCrowdDatasetMapper,
    ),
}


@pytest.mark.parametrize(("opts", "cached"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_the_trainer_caches_if_configured(cfg, opts, cached):
    cfg.merge_from_list(opts)
    assert type(Trainer.build_train_loader(cfg).samples.mapper) is cached
    cfg.MODEL.FOCAL.DATA.IMAGE_CACHE_MIB = 0
    without = CrowdDatasetMapper if cached is CachedCrowdDatasetMapper else DatasetMapper
    assert type(Trainer.build_train_loader(cfg).samples.mapper) is without


def test_by_default_there_is_none():
    assert get_cfg().MODEL.FOCAL.DATA.IMAGE_CACHE_MIB == 0
    assert type(build_train_mapper(get_cfg(), crowds=False)) is DatasetMapper
    assert type(build_train_mapper(get_cfg(), crowds=True)) is CrowdDatasetMapper


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("sizes", [(128,), (96, 160)], ids=["one size", "sizes"])
def test_batches_equal_those_without_a_cache_and_files_are_read_once(
    cfg, tmp_path, num_workers, sizes
):
    folder = tmp_path / "images_that_go"
    spec = ShapesSpec(images=4, image_size=SIZE, empty=0.0, crowds=0.0, seed=6)
    draw_dataset(spec, folder)
    name = f"gone_{num_workers}_{len(sizes)}"
    register_shapes(name, spec, folder)
    cfg.DATASETS.TRAIN, cfg.INPUT.MIN_SIZE_TRAIN = (name,), sizes
    cfg.DATALOADER.NUM_WORKERS = num_workers
    count = 36  # batches of 18 epochs: each of two workers has loaded each image

    ours = iter(Trainer.build_train_loader(cfg))
    cfg.MODEL.FOCAL.DATA.IMAGE_CACHE_MIB = 0
    expected = list(itertools.islice(Trainer.build_train_loader(cfg), count + 12))
    seen = list(itertools.islice(ours, count))
    shutil.rmtree(folder / "images")
    seen += itertools.islice(ours, 12)
    for mine, theirs in zip(itertools.chain(*seen), itertools.chain(*expected), strict=True):
        assert_same(mine, theirs)


def test_a_cache_does_not_affect_other_random_draws(cfg):
    """A model's random draws between two batches are the same as without a cache."""

    def draws(mib):
        cfg.MODEL.FOCAL.DATA.IMAGE_CACHE_MIB = mib
        seed_all_rng(3)
        loader = iter(Trainer.build_train_loader(cfg))
        return [(next(loader), torch.rand(1).item(), np.random.rand())[1:] for _ in range(20)]

    assert draws(0) == draws(64)


# Unsupported uses


@pytest.mark.parametrize("mib", [-1, 1.5, "64", None])
def test_an_illegal_bound_names_the_key(cfg, mib):
    cfg.MODEL.FOCAL.DATA["IMAGE_CACHE_MIB"] = mib
    with pytest.raises(ValueError, match=rf"{KEY} must be an integer >= 0, got {mib!r}"):
        Trainer.build_train_loader(cfg)


@pytest.mark.parametrize("mib", ["1.5", "much"])
def test_a_size_limit_must_be_an_integer(cfg, mib):
    with pytest.raises(ValueError, match=KEY):
        cfg.merge_from_list([KEY, mib])


@pytest.mark.parametrize("key", ["MODEL.MASK_ON", "MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"])
def test_inputs_other_than_boxes_are_not_supported(cfg, monkeypatch, key):
    monkeypatch.setattr(
        "detectron2.data.detection_utils.create_keypoint_hflip_indices", lambda _: [0]
    )
    cfg.merge_from_list([key, True])
    with pytest.raises(ValueError, match=f"{KEY} supports training with boxes only.*{key}"):
        build_train_mapper(cfg, crowds=False)


def test_evaluation_is_not_supported(cfg):
    with pytest.raises(ValueError, match=f"{KEY} supports training"):
        CachedDatasetMapper(cfg, is_train=False)


def test_semantic_segmentation_is_not_supported(cfg):
    mapper = CachedDatasetMapper(cfg, is_train=True)
    image = {**DatasetCatalog.get("cached_shapes")[0], "sem_seg_file_name": "any.png"}
    with pytest.raises(ValueError, match=f"{KEY} must be 0 if semantic segmentation"):
        mapper(image)
