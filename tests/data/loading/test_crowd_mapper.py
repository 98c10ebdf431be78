"""Crowd regions in the training data: kept and marked, with no other change."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.utils.env import seed_all_rng

from focal_plugin.data import ShapesSpec, draw_dataset, register_shapes
from focal_plugin.data.loading.crowd_mapper import CROWD_LABEL, CrowdDatasetMapper
from focal_plugin.data.loading.stream import build_train_loader
from focal_plugin.engine import Trainer
from focal_plugin.modeling.matcher import split_crowds

from ...cached_configs import read_cfg
from ...conftest import DATASET_ROOT


@pytest.fixture(scope="module")
def crowded():
    """Return six images with one crowd region each, as dataset dicts."""
    folder = Path(DATASET_ROOT) / "crowded_shapes"
    spec = ShapesSpec(images=6, image_size=128, crowds=1.0, empty=0.0, seed=5)
    draw_dataset(spec, folder)
    register_shapes("crowded_shapes", spec, folder)
    dicts = DatasetCatalog.get("crowded_shapes")
    assert all(sum(x["iscrowd"] for x in image["annotations"]) == 1 for image in dicts)
    return dicts


@pytest.fixture
def cfg(crowded):
    cfg = read_cfg("Shapes-Detection/retinanet_small.yaml")
    cfg.DATASETS.TRAIN = ("crowded_shapes",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg


def mapped(mapper, image, seed=0):
    seed_all_rng(seed)
    return mapper(image)


def test_a_crowd_is_kept_with_a_negative_class_and_its_transformed_box(cfg, crowded):
    cfg.INPUT.MIN_SIZE_TRAIN = (256,)
    cfg.INPUT.RANDOM_FLIP = "none"
    for image in crowded:
        instances = mapped(CrowdDatasetMapper(cfg, is_train=True), image)["instances"]
        crowd = instances[instances.gt_classes == CROWD_LABEL]
        (annotation,) = (x for x in image["annotations"] if x["iscrowd"])
        x, y, width, height = annotation["bbox"]
        expected = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32) * 2
        torch.testing.assert_close(crowd.gt_boxes.tensor, expected)


def test_objects_and_images_equal_those_of_the_stock_mapper(cfg, crowded):
    for seed, image in enumerate(crowded):
        ours = mapped(CrowdDatasetMapper(cfg, is_train=True), image, seed)
        stock = mapped(DatasetMapper(cfg, is_train=True), image, seed)
        objects, crowds = split_crowds(ours.pop("instances"))
        expected = stock.pop("instances")
        assert len(crowds) == 1
        assert len(objects) > 0
        assert torch.equal(objects.gt_boxes.tensor, expected.gt_boxes.tensor)
        assert torch.equal(objects.gt_classes, expected.gt_classes)
        assert torch.equal(ours.pop("image"), stock.pop("image"))
        assert ours == stock


def test_the_dataset_is_not_changed(cfg, crowded):
    before = copy.deepcopy(crowded[0])
    mapped(CrowdDatasetMapper(cfg, is_train=True), crowded[0])
    assert crowded[0] == before


def test_a_crowds_mask_is_not_read(cfg, crowded):
    """COCO's crowd regions have run-length masks where objects have polygons."""
    image = copy.deepcopy(crowded[0])
    for annotation in image["annotations"]:
        if annotation["iscrowd"]:
            annotation["segmentation"] = {"counts": "not a run length", "size": [128, 128]}
    instances = mapped(CrowdDatasetMapper(cfg, is_train=True), image)["instances"]
    assert (instances.gt_classes == CROWD_LABEL).sum() == 1


def test_a_crowd_without_area_is_dropped_as_any_box(cfg, crowded):
    image = copy.deepcopy(crowded[0])
    for annotation in image["annotations"]:
        if annotation["iscrowd"]:
            annotation["bbox"] = [10, 10, 0, 5]
    instances = mapped(CrowdDatasetMapper(cfg, is_train=True), image)["instances"]
    assert (instances.gt_classes >= 0).all()


def test_an_image_of_nothing_but_a_crowd_has_no_object(cfg, crowded):
    image = copy.deepcopy(crowded[0])
    image["annotations"] = [x for x in image["annotations"] if x["iscrowd"]]
    instances = mapped(CrowdDatasetMapper(cfg, is_train=True), image)["instances"]
    assert instances.gt_classes.tolist() == [CROWD_LABEL]


def test_evaluation_uses_the_stock_mapper(cfg, crowded):
    ours = CrowdDatasetMapper(cfg, is_train=False)(crowded[0])
    stock = DatasetMapper(cfg, is_train=False)(crowded[0])
    assert torch.equal(ours.pop("image"), stock.pop("image"))
    assert ours == stock


@pytest.mark.parametrize("key", ["use_instance_mask", "use_keypoint"])
def test_with_masks_or_keypoints_crowds_are_dropped(cfg, crowded, key):
    image = copy.deepcopy(crowded[0])
    for annotation in image["annotations"]:
        annotation["segmentation"] = [[1, 1, 9, 1, 9, 9]]
        annotation["keypoints"] = [5.0, 5.0, 2]
    mapper = CrowdDatasetMapper(cfg, is_train=True)
    setattr(mapper, key, True)
    mapper.keypoint_hflip_indices = [0]
    instances = mapped(mapper, image)["instances"]
    assert len(instances) == len(image["annotations"]) - 1
    assert (instances.gt_classes >= 0).all()


def batches(loader, count=6):
    return list(itertools.islice(loader, count))


def test_the_trainer_reads_the_same_images_in_the_same_order_as_with_the_stock_mapper(cfg):
    ours = batches(Trainer.build_train_loader(cfg))
    stock = batches(build_train_loader(cfg, DatasetMapper(cfg, is_train=True)))
    crowds = 0
    for mine, theirs in zip(itertools.chain(*ours), itertools.chain(*stock), strict=True):
        assert mine["file_name"] == theirs["file_name"]
        assert torch.equal(mine["image"], theirs["image"])
        crowds += (mine["instances"].gt_classes == CROWD_LABEL).sum()
        assert (theirs["instances"].gt_classes >= 0).all()
    assert crowds == 12


def shows_crowds(cfg):
    images = itertools.chain(*batches(Trainer.build_train_loader(cfg)))
    return any((image["instances"].gt_classes == CROWD_LABEL).any() for image in images)


ARCHITECTURE = "MODEL.META_ARCHITECTURE"
RPN = "MODEL.PROPOSAL_GENERATOR.NAME"
ROI_HEADS = "MODEL.ROI_HEADS.NAME"
STYLE = "MODEL.FOCAL.RPN.STYLE"


@pytest.mark.parametrize(
    ("opts", "knows"),
    [
        ([ARCHITECTURE, "FocalRetinaNet"], True),
        ([ARCHITECTURE, "RetinaNet"], False),
        ([ARCHITECTURE, "GeneralizedRCNN", RPN, "FocalRPN", ROI_HEADS, "FocalROIHeads"], True),
        ([ARCHITECTURE, "GeneralizedRCNN", RPN, "FocalRPN", ROI_HEADS, "OHEMROIHeads"], True),
        ([ARCHITECTURE, "GeneralizedRCNN", RPN, "FocalRPN", ROI_HEADS, "StandardROIHeads"], False),
        ([ARCHITECTURE, "GeneralizedRCNN", RPN, "RPN", ROI_HEADS, "FocalROIHeads"], False),
        ([ARCHITECTURE, "GeneralizedRCNN", RPN, "PrecomputedProposals"], False),
        ([ARCHITECTURE, "ProposalNetwork", RPN, "FocalRPN"], True),
        ([ARCHITECTURE, "ProposalNetwork", RPN, "RPN"], False),
    ],
)
def test_crowds_are_loaded_only_if_every_component_supports_them(cfg, opts, knows):
    cfg.merge_from_list(opts)
    assert shows_crowds(cfg) == knows


@pytest.mark.parametrize(
    ("style", "heads", "warned"),
    [
        ("matterport", "StandardROIHeads", True),
        ("matterport", "FocalROIHeads", False),
        ("tensorpack", "StandardROIHeads", False),  # its threshold removes nothing
        ("detectron2", "StandardROIHeads", False),
    ],
)
def test_the_trainer_warns_if_only_the_rpn_supports_crowds(cfg, caplog, style, heads, warned):
    cfg.merge_from_list(
        [ARCHITECTURE, "GeneralizedRCNN", RPN, "FocalRPN", ROI_HEADS, heads, STYLE, style]
    )
    Trainer.build_train_loader(cfg)
    assert ("crowd regions" in caplog.text) == warned
