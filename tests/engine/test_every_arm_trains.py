"""Two optimizer steps of every arm of the built-in dataset on two small images."""

import math

import pytest
import torch
from detectron2.data.datasets import load_coco_json
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

from focal_plugin import arms
from focal_plugin.compare.plan.spec_file import read_spec
from focal_plugin.data import ShapesSpec, draw_dataset
from focal_plugin.data.loading.crowd_mapper import CrowdDatasetMapper
from focal_plugin.engine.hooks.fixed_anchors import dense_parts, take_snapshots
from focal_plugin.engine.hooks.fixed_losses import TOTAL, measure_losses
from focal_plugin.engine.unread_keys import RecordingCfgNode
from focal_plugin.losses import class_alpha_of_counts
from focal_plugin.modeling.prior import without_automatic_priors

from ..cached_configs import SHAPES, read_arm, shapes_arms
from ..conftest import ROOT
from ..forked import NARROW
from ..test_configs import FAMILIES


def only_chooses_images(family, arm):
    """Return True for an arm that changes no part of the detector."""
    keys = [key for name in arm.names for key in arms.load(name, family).changes]
    return bool(keys) and all(key.startswith("DATALOADER.") for key in keys)


ARMS = {
    (family, name): arm
    for family in FAMILIES
    for name, arm in shapes_arms(family).items()
    if not only_chooses_images(family, arm)
}
STEPS = 2
"""Number of steps; a stateful loss has a state from the second step on."""
DENSE_LOSSES = {"loss_cls", "loss_box_reg"}
LOSSES_OF_HEAD = {
    "CenternessRetinaNetHead": {"loss_centerness"},
    "DistributionRetinaNetHead": {"loss_dfl"},
}
BAG_LOSSES = {"loss_positive_bag", "loss_negative_bag"}
RPN_LOSSES = {"loss_rpn_cls", "loss_rpn_loc"}
COUNTS = [f"MODEL.FOCAL.{stage}CLS_LOSS.SAMPLES_PER_CLASS" for stage in ("", "ROI_HEADS.")]
CHANGED_HERE = {*COUNTS, *NARROW}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Draw two images with a crowd and objects of several sizes, in Detectron2's format."""
    folder = tmp_path_factory.mktemp("images") / "shapes"
    spec = ShapesSpec(images=2, image_size=64, radius=(6, 28), empty=0, crowds=1, seed=2)
    draw_dataset(spec, folder)
    return load_coco_json(str(folder / "annotations.json"), str(folder / "images"))


def load_arm(family, arm):
    cfg = read_arm(ARMS[family, arm], "MODEL.DEVICE", "cpu")
    if cfg.MODEL.RESNETS.NORM != "GN":  # GN requires 32 channels in each layer
        cfg.merge_from_list([part for pair in NARROW.items() for part in pair])
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    cfg.INPUT.RANDOM_FLIP = "none"  # the same images in every arm and run
    cfg.SOLVER.BASE_LR = 0.005  # without warm-up
    # train_net.py counts the objects and images
    cfg.merge_from_list([part for key in COUNTS for part in (key, [3, 2, 2, 1, 0])])
    if cfg.MODEL.FOCAL.CLS_LOSS.CLASS_ALPHA == "auto":
        cfg.MODEL.FOCAL.CLS_LOSS.CLASS_ALPHA = class_alpha_of_counts([3, 2, 2, 1, 0])
    return without_automatic_priors(cfg)


def read_batch(cfg, images):
    mapper = CrowdDatasetMapper(cfg, is_train=True)
    return [mapper(image) for image in images]


@torch.no_grad()
def test_the_images_have_an_object_for_each_level(images):
    """A level without an object would have uninformative gradients."""
    cfg = load_arm("retinanet", "fl")
    model = build_model(cfg)
    batch = read_batch(cfg, images)
    features = model.backbone(model.preprocess_image(batch).tensor)
    anchors = model.anchor_generator([features[name] for name in cfg.MODEL.RETINANET.IN_FEATURES])
    labels, _ = model.label_anchors(anchors, [x["instances"] for x in batch])
    for level in torch.stack(labels).split([len(x) for x in anchors], dim=1):
        assert ((level >= 0) & (level < cfg.MODEL.RETINANET.NUM_CLASSES)).any()


def losses_of(cfg):
    """Return the names of the losses of the architecture."""
    if cfg.MODEL.FOCAL.BAG_LOSS.NAME:
        return BAG_LOSSES
    if cfg.MODEL.META_ARCHITECTURE == "FocalRetinaNet":
        of_head = LOSSES_OF_HEAD.get(cfg.MODEL.FOCAL.HEAD.NAME, set())
        return DENSE_LOSSES | of_head | ({"loss_carl"} if cfg.MODEL.FOCAL.CARL.WEIGHT else set())
    if "Cascade" in cfg.MODEL.ROI_HEADS.NAME:
        return RPN_LOSSES | {f"{loss}_stage{k}" for loss in DENSE_LOSSES for k in range(3)}
    carl = {"loss_carl"} if cfg.MODEL.FOCAL.ROI_HEADS.CARL.WEIGHT else set()
    return RPN_LOSSES | DENSE_LOSSES | carl


@pytest.mark.slow
@pytest.mark.parametrize(("family", "arm"), sorted(ARMS))
def test_losses_and_gradients_are_finite_and_every_key_and_parameter_counts(family, arm, images):
    cfg = load_arm(family, arm)
    recording = RecordingCfgNode.of(cfg)
    torch.manual_seed(0)
    model = build_model(recording)
    optimizer = build_optimizer(cfg, model)
    assert not {key for key in recording.unread if key.startswith("MODEL.")} - CHANGED_HERE
    batch = read_batch(cfg, images)
    without_gradient = {name for name, _ in model.named_parameters()}
    with EventStorage():
        for _ in range(STEPS):
            losses = model(batch)
            assert set(losses) == losses_of(cfg)
            assert all(loss.isfinite() and loss > 0 for loss in losses.values()), losses
            optimizer.zero_grad()
            sum(losses.values()).backward()
            for name, p in model.named_parameters():
                assert p.grad is not None, name
                assert p.grad.isfinite().all(), name
                if p.grad.any():
                    without_gradient.discard(name)
            optimizer.step()
    assert not without_gradient


@pytest.mark.slow
@pytest.mark.parametrize(("family", "arm"), sorted(ARMS))
def test_an_arm_has_snapshots_losses_and_a_balance_on_fixed_images(family, arm, images):
    cfg = load_arm(family, arm)
    torch.manual_seed(0)
    model = build_model(cfg)
    batch = read_batch(cfg, images)
    found = measure_losses(model, batch, batch_size=2, with_balance=True)
    assert set(found.losses) == losses_of(cfg) | {TOTAL}
    assert all(math.isfinite(loss) for loss in found.losses.values())
    parts = {"retinanet": ["retinanet"], "faster_rcnn": ["rpn", "roi_heads"]}[family]
    assert list(found.balance) == ([] if cfg.MODEL.FOCAL.BAG_LOSS.NAME else parts)
    assert all(norms.ratio for norms in found.balance.values())
    snapshots = take_snapshots(model, batch, iteration=0, batch_size=2)
    assert snapshots.keys() == dense_parts(model).keys()


SECOND = [
    (family, name)
    for family, (_, second) in SHAPES.items()
    for name in read_spec(ROOT / f"configs/comparisons/{second}.yaml").arms
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "arm"), SECOND)
def test_an_arm_trains_with_one_class_and_with_an_image_without_objects(family, arm, images):
    cfg = load_arm(family, arm)
    cfg.MODEL.RETINANET.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS = [3]
    cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS = [3]
    cfg.MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES = 1
    torch.manual_seed(0)
    model = build_model(cfg)
    some, none = read_batch(cfg, images)
    some["instances"].gt_classes.clamp_(max=0)
    none["instances"] = none["instances"][:0]
    with EventStorage():
        for batch in ([some, none], [none]):
            losses = model(batch)
            assert all(loss.isfinite() for loss in losses.values()), losses
            sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
