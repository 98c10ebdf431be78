"""Training stream: batch b of a run depends only on the seed and on b."""

import copy
import itertools
import multiprocessing
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_train_loader
from detectron2.data import build as stock
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import IterableDataset

from focal_plugin import get_cfg
from focal_plugin.data.loading import training_set
from focal_plugin.data.loading.stream import ImageReadError, TrainLoader, build_train_loader
from focal_plugin.random_state import generators_kept, seed_all

NUM_IMAGES, BATCH = 10, 4
KEY = "MODEL.FOCAL.DATA.MAX_UNREADABLE_IMAGES"


@pytest.fixture
def dicts():
    """Return ten images: three are wider than high, one has two objects and one has none."""
    objects = [{"bbox": [0, 0, 4, 4], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}]
    return [
        {
            "file_name": f"image{index}.png",
            "image_id": 100 + index,
            "width": 8 if index % 3 else 5,
            "height": 6 if index not in {1, 2, 7} else 9,
            "annotations": {4: [], 5: 2 * objects}.get(index, objects),
        }
        for index in range(NUM_IMAGES)
    ]


@pytest.fixture
def cfg(dicts):
    """Return a config for training on these images, loaded in the training process."""
    cfg = get_cfg()
    cfg.SEED = 3
    cfg.DATASETS.TRAIN = ("ten_images",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SOLVER.IMS_PER_BATCH = BATCH
    DatasetCatalog.register("ten_images", lambda: dicts)
    yield cfg
    DatasetCatalog.remove("ten_images")


@pytest.fixture
def shapes_cfg(cfg, tiny_shapes):
    """Return a config for training on real images of several sizes."""
    cfg.DATASETS.TRAIN = ("tiny_shapes",)
    cfg.INPUT.MIN_SIZE_TRAIN = (48, 64, 80)
    return cfg


def drawing_mapper(image):
    """Return the id of the image, and a draw from each generator."""
    return {
        "image_id": image["image_id"],
        "objects": len(image["annotations"]),
        "draws": (torch.rand(1).item(), np.random.rand(), random.random()),
    }


class ReadingMapper:
    """`drawing_mapper` with some unreadable images."""

    def __init__(self, unreadable=(), error=OSError):
        self.unreadable = unreadable
        self.error = error
        self.read = []

    def __call__(self, image):
        self.read.append(image["image_id"])
        if image["image_id"] in self.unreadable:
            raise self.error("broken")
        return drawing_mapper(image)


def first(loader, count):
    return list(itertools.islice(loader, count))


def batches_of(cfg, count, mapper=drawing_mapper, start=0):
    loader = build_train_loader(cfg, mapper)
    loader.start_batch = start
    return first(loader, count)


def ids(batches):
    return [[x["image_id"] for x in batch] for batch in batches]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


# Order


@pytest.mark.slow
@pytest.mark.parametrize("grouping", [False, True])
def test_the_number_of_workers_does_not_matter(shapes_cfg, grouping):
    shapes_cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    mapper = DatasetMapper(shapes_cfg, is_train=True)
    expected = flat(batches_of(shapes_cfg, 9, mapper))
    assert len({x["image"].shape for x in expected}) > 1
    shapes_cfg.DATALOADER.NUM_WORKERS = 2
    for mine, theirs in zip(flat(batches_of(shapes_cfg, 9, mapper)), expected, strict=True):
        assert mine["image_id"] == theirs["image_id"]
        assert torch.equal(mine["image"], theirs["image"])
        assert torch.equal(mine["instances"].gt_boxes.tensor, theirs["instances"].gt_boxes.tensor)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("grouping", [False, True])
def test_starting_at_a_batch_skips_earlier_ones(cfg, grouping, num_workers):
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    cfg.DATALOADER.NUM_WORKERS = num_workers
    whole = batches_of(cfg, 12)
    assert batches_of(cfg, 5, start=7) == whole[7:]


def test_images_of_batches_that_are_left_out_are_not_read(cfg):
    mapper = ReadingMapper()
    (batch,) = batches_of(cfg, 1, mapper, start=1000)
    assert mapper.read == [x["image_id"] for x in batch]


def test_nothing_happens_before_the_first_batch_is_asked_for(cfg):
    """A trainer may call iter() in its constructor, before it resumes."""
    cfg.DATALOADER.NUM_WORKERS = 2
    whole = batches_of(cfg, 4)
    before = set(multiprocessing.active_children())
    loader = build_train_loader(cfg, drawing_mapper)
    batches = iter(loader)
    assert set(multiprocessing.active_children()) <= before
    loader.start_batch = 3
    assert next(batches) == whole[3]
    assert len(set(multiprocessing.active_children()) - before) == 2


def test_a_loader_can_be_iterated_over_again(cfg):
    loader = build_train_loader(cfg, drawing_mapper)
    assert first(loader, 5) == first(loader, 5)


@pytest.mark.parametrize("grouping", [False, True])
def test_earlier_draws_have_no_effect(cfg, grouping):
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    with generators_kept():
        seed_all(1)
        expected = batches_of(cfg, 5)
        seed_all(2)
        assert batches_of(cfg, 5) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_generators_of_the_training_process_do_not_change(cfg, num_workers):
    cfg.DATALOADER.NUM_WORKERS = num_workers

    def draws():
        return torch.rand(1).item(), np.random.rand(), random.random()

    with generators_kept():
        seed_all(1)
        expected = draws()
        seed_all(1)
        batches_of(cfg, 5)
        assert draws() == expected


def test_another_seed_gives_other_images_and_other_augmentations(cfg):
    one = flat(batches_of(cfg, 5))
    cfg.SEED = 4
    other = flat(batches_of(cfg, 5))
    assert [x["image_id"] for x in one] != [x["image_id"] for x in other]
    assert not {x["draws"] for x in one} & {x["draws"] for x in other}


def test_each_epoch_sees_every_image_once(cfg):
    seen = flat(ids(batches_of(cfg, 10)))
    for epoch in range(4):
        images = seen[epoch * NUM_IMAGES : (epoch + 1) * NUM_IMAGES]
        assert sorted(images) == [100 + index for index in range(NUM_IMAGES)]


def test_an_image_is_augmented_in_another_way_in_each_epoch(cfg):
    draws = [x["draws"] for x in flat(batches_of(cfg, 25)) if x["image_id"] == 105]
    assert len(draws) == len(set(draws)) == 10


def as_process(monkeypatch, rank, num_processes):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: num_processes)


SAMPLERS = ["TrainingSampler", "RepeatFactorTrainingSampler", "ClassAwareTrainingSampler"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_two_processes_together_see_what_one_sees(cfg, monkeypatch, sampler):
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    expected = flat(batches_of(cfg, 6))
    of_rank = []
    for rank in range(2):
        as_process(monkeypatch, rank, 2)
        of_rank.append(flat(batches_of(cfg, 6)))
    assert flat(zip(*of_rank, strict=True)) == expected


@pytest.mark.parametrize(("rank", "num_processes"), [(0, 1), (1, 2)])
def test_batches_by_aspect_ratio_equal_detectron2s(cfg, dicts, monkeypatch, rank, num_processes):
    as_process(monkeypatch, rank, num_processes)
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = True
    order = TrainingSampler(NUM_IMAGES, seed=cfg.SEED)
    images = (dicts[index] for index in order)
    theirs = AspectRatioGroupedDataset(images, BATCH // num_processes)
    assert ids(batches_of(cfg, 20)) == ids(first(theirs, 20))


def test_without_a_size_images_cannot_be_grouped(cfg, dicts):
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = True
    del dicts[6]["width"]
    with pytest.raises(ValueError, match=r"image 106, image6.png, has no width.*GROUPING"):
        build_train_loader(cfg, drawing_mapper)


@pytest.mark.parametrize("images", [0, 3])
def test_a_batch_that_processes_cannot_share_is_refused(cfg, monkeypatch, images):
    as_process(monkeypatch, 0, 2)
    cfg.SOLVER.IMS_PER_BATCH = images
    with pytest.raises(AssertionError, match=f"multiple of the number of processes, 2.*{images}"):
        build_train_loader(cfg, drawing_mapper)


# Choice of images


@pytest.mark.parametrize(
    "opts",
    [
        [],
        ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", True],
        ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", 4],
        ["MODEL.LOAD_PROPOSALS", True, "DATASETS.PROPOSAL_FILES_TRAIN", ("boxes.pkl",)],
    ],
)
def test_the_dataset_is_loaded_as_by_detectron2(cfg, dicts, monkeypatch, opts):
    cfg.merge_from_list(opts)
    calls = []

    def record(*args, **kwargs):
        calls.append((args, kwargs))
        return dicts

    monkeypatch.setattr(training_set, "get_detection_dataset_dicts", record)
    monkeypatch.setattr(stock, "get_detection_dataset_dicts", record)
    build_train_loader(cfg, drawing_mapper)
    build_detection_train_loader(cfg, mapper=drawing_mapper)
    mine, theirs = calls
    assert mine == theirs


def test_the_annotations_are_not_changed(cfg, dicts):
    before = copy.deepcopy(dicts)

    def writing_mapper(image):
        image["annotations"].clear()
        return image

    batches_of(cfg, 5, writing_mapper)
    assert dicts == before


def test_impossible_boxes_are_dropped_where_asked_for(cfg, dicts):
    dicts[5]["annotations"][0] = {**dicts[5]["annotations"][0], "bbox": [3, 3, -2, 2]}

    def objects():
        return {x["image_id"]: x["objects"] for x in flat(batches_of(cfg, 3))}[105]

    assert objects() == 2
    cfg.MODEL.FOCAL.DATA.CHECK = "drop"
    assert objects() == 1


# Samplers


def test_the_order_is_that_of_detectron2s_sampler_with_the_seed_of_the_config(cfg):
    order = first(TrainingSampler(NUM_IMAGES, seed=3), 40)
    assert flat(ids(batches_of(cfg, 10))) == [100 + index for index in order]


def test_a_rare_class_is_in_every_second_image_of_class_aware_sampling(cfg, dicts):
    dicts[0]["annotations"] = [{**dicts[0]["annotations"][0], "category_id": 1}]
    cfg.DATALOADER.SAMPLER_TRAIN = "ClassAwareTrainingSampler"
    seen = flat(ids(batches_of(cfg, 10)))
    assert seen.count(100) == 20
    assert 104 not in seen  # it has no object
    assert flat(ids(batches_of(cfg, 5, start=5))) == seen[20:]


def test_images_of_rare_classes_are_repeated(cfg, dicts):
    dicts[0]["annotations"] = [{**dicts[0]["annotations"][0], "category_id": 1}]
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 0.9)
    order = first(RepeatFactorTrainingSampler(factors, seed=3), 40)
    seen = flat(ids(batches_of(cfg, 10)))
    assert seen == [100 + index for index in order]
    assert seen.count(100) > seen.count(101)


@pytest.mark.parametrize(
    "name",
    [
        "RandomSubsetTrainingSampler",
        "WeightedTrainingSampler",
        "WeightedCategoryTrainingSampler",
    ],
)
def test_samplers_that_draw_their_seed_depend_on_the_config_seed(cfg, name):
    cfg.DATALOADER.SAMPLER_TRAIN = name
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.7
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [["ten_images", 2.5]]
    with generators_kept():
        one = ids(batches_of(cfg, 10))
        np.random.seed(99)
        assert ids(batches_of(cfg, 10)) == one
    cfg.SEED = 4
    assert ids(batches_of(cfg, 10)) != one


def test_an_unknown_sampler_is_named(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "NoSuchSampler"
    with pytest.raises(ValueError, match="NoSuchSampler"):
        build_train_loader(cfg, drawing_mapper)


class Numbers(IterableDataset):
    """Dataset without indices."""

    def __len__(self):
        return NUM_IMAGES

    def __iter__(self):
        return iter([{"image_id": i, "annotations": []} for i in range(NUM_IMAGES)])


def test_detectron2_loads_a_dataset_without_indices_with_a_warning(cfg, caplog):
    DatasetCatalog.register("numbers", Numbers)
    cfg.DATASETS.TRAIN = ("numbers",)
    try:
        loader = build_train_loader(cfg, drawing_mapper)
    finally:
        DatasetCatalog.remove("numbers")
    assert not isinstance(loader, TrainLoader)
    assert ids(first(loader, 2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert "numbers cannot be indexed" in caplog.text


def test_an_indexed_dataset_other_than_a_list_is_a_stream(cfg, dicts):
    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(dicts)

        def __getitem__(self, index):
            return dicts[index]

    cfg.DATALOADER.ASPECT_RATIO_GROUPING = True
    expected = batches_of(cfg, 5)
    DatasetCatalog.register("indexed", Images)
    cfg.DATASETS.TRAIN = ("indexed",)
    try:
        assert batches_of(cfg, 5) == expected
    finally:
        DatasetCatalog.remove("indexed")


# Unreadable images


def truncate(file):
    file.write_bytes(file.read_bytes()[:3000])


def write_text(file):
    file.write_text("no image")


@pytest.mark.parametrize("spoil", [Path.unlink, truncate, write_text, Path.touch])
def test_an_invalid_image_file_is_named_with_its_id(
    shapes_cfg, tiny_shapes, tmp_path, monkeypatch, spoil
):
    images = copy.deepcopy(DatasetCatalog.get("tiny_shapes"))
    file = tmp_path / "spoilt.png"
    file.write_bytes(Path(images[3]["file_name"]).read_bytes() if spoil is truncate else b"")
    spoil(file)
    images[3]["file_name"] = str(file)
    monkeypatch.setattr(training_set, "get_detection_dataset_dicts", lambda *_, **__: images)
    message = re.escape(f"image {images[3]['image_id']}, {file}, cannot be read: ")
    with pytest.raises(ImageReadError, match=message) as raised:
        batches_of(shapes_cfg, 3, DatasetMapper(shapes_cfg, is_train=True))
    assert isinstance(raised.value.__cause__, OSError)
    assert KEY in str(raised.value)


def test_an_image_unreadable_in_a_worker_is_named_with_the_reason(cfg):
    cfg.DATALOADER.NUM_WORKERS = 1
    message = r"(?s)OSError: broken.*direct cause.*image 103, image3.png, cannot be read"
    with pytest.raises(ImageReadError, match=message):
        batches_of(cfg, 3, ReadingMapper({103}))


@pytest.mark.parametrize("error", [SizeMismatchError, KeyError, RuntimeError])
def test_other_errors_of_a_mapper_pass_through(cfg, error):
    cfg.merge_from_list([KEY, 5])
    with pytest.raises(error, match="broken"):
        batches_of(cfg, 3, ReadingMapper({103}, error))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_some_unreadable_images_are_replaced_if_allowed(cfg, caplog, num_workers):
    cfg.merge_from_list([KEY, 2, "DATALOADER.NUM_WORKERS", num_workers])
    whole = flat(batches_of(cfg, 25))
    loader = build_train_loader(cfg, ReadingMapper({103, 106}))
    seen = flat(first(loader, 25))
    assert set(loader.unreadable) == {"image3.png", "image6.png"}
    for mine, meant in zip(seen, whole, strict=True):
        if meant["image_id"] not in {103, 106}:
            assert mine == meant
        else:
            assert mine["image_id"] not in {103, 106}
            assert mine["draws"] == meant["draws"]
    warned = [x.getMessage() for x in caplog.records if "cannot be read" in x.getMessage()]
    assert len(warned) == 2
    assert any("image 103, image3.png, cannot be read: OSError: broken" in x for x in warned)
    assert any(f"(2 of 2 allowed by {KEY})" in x for x in warned)


def test_replacements_depend_on_the_seed_and_the_batch(cfg):
    cfg.merge_from_list([KEY, 2])
    spoilt = ReadingMapper({103, 106})
    whole = batches_of(cfg, 20, spoilt)
    replaced = [
        mine["image_id"]
        for mine, meant in zip(flat(whole), flat(batches_of(cfg, 20)), strict=True)
        if mine != meant
    ]
    assert len(set(replaced)) > 3
    assert batches_of(cfg, 10, spoilt, start=10) == whole[10:]
    cfg.DATALOADER.NUM_WORKERS = 2
    assert batches_of(cfg, 20, spoilt) == whole


@pytest.mark.parametrize("num_workers", [0, 2])
def test_more_unreadable_images_than_allowed_end_the_run(cfg, num_workers):
    cfg.merge_from_list([KEY, 2, "DATALOADER.NUM_WORKERS", num_workers])
    with pytest.raises(ImageReadError, match=rf"3 images cannot be read, {KEY} is 2") as e:
        batches_of(cfg, 10, ReadingMapper({101, 103, 106}))
    for index in (1, 3, 6):
        assert f"image 10{index}, image{index}.png" in str(e.value)


def test_a_dataset_without_readable_images_ends_the_run(cfg):
    cfg.merge_from_list([KEY, 100])
    mapper = ReadingMapper({100 + index for index in range(NUM_IMAGES)})
    with pytest.raises(ImageReadError, match=r"10 images cannot be read.* the dataset has 10"):
        batches_of(cfg, 1, mapper)
    assert len(mapper.read) == BATCH * NUM_IMAGES


@pytest.mark.parametrize("value", [-1, 1.5, None])
def test_an_illegal_number_of_unreadable_images_names_the_key(cfg, value):
    cfg.MODEL.FOCAL.DATA["MAX_UNREADABLE_IMAGES"] = value
    with pytest.raises(ValueError, match=rf"{KEY} must be an integer >= 0, got {value}"):
        build_train_loader(cfg, drawing_mapper)


# Signals


@pytest.fixture
def running(cfg):
    """Start a loader, and return it with its two workers."""
    cfg.DATALOADER.NUM_WORKERS = 2
    before = set(multiprocessing.active_children())
    batches = iter(build_train_loader(cfg, drawing_mapper))
    next(batches)
    yield batches, [x for x in multiprocessing.active_children() if x not in before]
    batches.close()


def test_workers_survive_signals_of_a_scheduler(running, cfg):
    batches, workers = running
    for name in ("TERM", "USR1", "INT"):
        subprocess.run(["kill", f"-{name}", *(str(x.pid) for x in workers)], check=True)
    time.sleep(0.2)
    seen = first(batches, 10)
    assert all(x.is_alive() for x in workers)
    assert seen == batches_of(cfg, 10, start=1)


def test_workers_end_on_a_signal_of_the_training_process(running):
    """A training process that ends with an error ends its workers first; else it would hang."""
    _, workers = running
    for worker in workers:
        worker.terminate()
        worker.join(timeout=20)
        assert worker.exitcode == 0


def test_workers_end_with_their_loader(running):
    batches, workers = running
    batches.close()
    for worker in workers:
        worker.join(timeout=20)
        assert worker.exitcode == 0


def test_the_training_process_still_receives_signals(running):
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGINT,
    }
