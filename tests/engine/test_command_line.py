import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import build_model

from focal_plugin import arms, get_cfg
from focal_plugin.data import count_images, count_objects
from focal_plugin.data.loading.crowd_mapper import CrowdDatasetMapper
from focal_plugin.engine import argument_parser, checkpoint_options
from focal_plugin.engine.command_line import (
    count_images_per_class,
    settle_from_training_set,
    settle_seed,
)
from focal_plugin.engine.trial import build_without_memory
from focal_plugin.losses import build_cls_loss, class_alpha_of_counts

from ..modeling.toy import narrow_cfg


@pytest.fixture
def cfg(tiny_shapes):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("tiny_shapes",)
    cfg.MODEL.RETINANET.NUM_CLASSES = 5
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = "ClassBalancedFocalLoss"
    return cfg


def test_a_loss_with_class_counts_gets_those_of_the_training_set(cfg):
    settle_from_training_set(cfg)
    counts = cfg.MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS
    assert counts == count_objects(["tiny_shapes"], num_classes=5)
    weights = build_cls_loss(cfg).weights
    assert weights.argmin() == counts.index(max(counts))


def test_counts_that_the_config_gives_are_kept(cfg):
    cfg.MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS = [5, 4, 3, 2, 1]
    settle_from_training_set(cfg)
    assert cfg.MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS == [5, 4, 3, 2, 1]


def test_both_stages_get_class_counts_and_proposals_have_one_class(cfg):
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = "SigmoidFocalLoss"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    cfg.MODEL.FOCAL.RPN.CLS_LOSS.NAME = "ClassBalancedFocalLoss"
    cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME = "EqualizationLoss"
    settle_from_training_set(cfg)
    counts = count_objects(["tiny_shapes"], num_classes=5)
    assert cfg.MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS == []
    assert [sum(counts)] == cfg.MODEL.FOCAL.RPN.CLS_LOSS.SAMPLES_PER_CLASS
    assert counts == cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS


def test_a_loss_of_images_gets_the_images_of_the_training_set(cfg):
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME = "EffectiveClassMarginLoss"
    settle_from_training_set(cfg)
    images = count_images(["tiny_shapes"], num_classes=5)
    assert images != count_objects(["tiny_shapes"], num_classes=5)
    assert images == cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS


@pytest.mark.parametrize(
    ("key", "value"),
    [("MODEL.FOCAL.ROI_HEADS.NORCAL_GAMMA", 0.5), ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True)],
)
def test_a_box_head_that_requires_the_images_gets_them(cfg, key, value):
    samples = "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    before = cfg.dump()
    count_images_per_class(cfg)
    assert cfg.dump() == before
    cfg.merge_from_list([key, value])
    count_images_per_class(cfg)
    images = count_images(["tiny_shapes"], num_classes=5)
    assert images == cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS
    cfg.merge_from_list([samples, [5, 4, 3, 2, 1]])
    count_images_per_class(cfg)
    assert cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS == [5, 4, 3, 2, 1]


def test_automatic_alphas_are_those_of_the_objects_and_the_config_has_the_numbers(cfg):
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = "SigmoidFocalLoss"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    power = "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.CLASS_ALPHA_POWER"
    names = {"": "SigmoidFocalLoss", "RPN.": "SigmoidFocalLoss", "ROI_HEADS.": "SoftmaxFocalLoss"}
    for stage, name in names.items():
        node = f"MODEL.FOCAL.{stage}CLS_LOSS."
        cfg.merge_from_list([node + "NAME", name, node + "CLASS_ALPHA", "auto"])
    cfg.merge_from_list([power, 1.0, "MODEL.FOCAL.RPN.CLS_LOSS.ALPHA", -1.0])
    settle_from_training_set(cfg)
    counts = count_objects(["tiny_shapes"], num_classes=5)
    focal = cfg.MODEL.FOCAL
    expected = class_alpha_of_counts(counts)
    assert expected == focal.CLS_LOSS.CLASS_ALPHA
    assert focal.RPN.CLS_LOSS.CLASS_ALPHA == [0.5]
    expected = class_alpha_of_counts(counts, power=1.0, with_background=True)
    assert expected == focal.ROI_HEADS.CLS_LOSS.CLASS_ALPHA
    assert focal.CLS_LOSS.SAMPLES_PER_CLASS == []
    assert build_cls_loss(cfg)(torch.zeros(1, 5), torch.tensor([0])) > 0
    before = cfg.dump()
    settle_from_training_set(cfg)
    assert cfg.dump() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("MODEL.FOCAL.CLS_LOSS.CLASS_ALPHA_POWER", -1.0), ("MODEL.RETINANET.FOCAL_LOSS_ALPHA", 2.0)],
)
def test_an_illegal_option_of_automatic_alphas_is_named(cfg, key, value):
    arms.apply(cfg_of_retinanet(cfg), "class_alpha_auto")
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=rf"^{key} must be .*got {value}"):
        settle_from_training_set(cfg)


def cfg_of_retinanet(cfg):
    cfg.MODEL.META_ARCHITECTURE = "FocalRetinaNet"
    return cfg


@pytest.mark.parametrize("name", ["SigmoidFocalLoss", "no such loss"])
def test_other_losses_do_not_read_the_data(cfg, name):
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = name
    cfg.DATASETS.TRAIN = ("no such data",)
    settle_from_training_set(cfg)
    assert cfg.MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS == []


def test_without_counts_the_loss_can_be_built_but_not_called(cfg):
    loss = build_cls_loss(cfg)
    with pytest.raises(ValueError, match=r"SAMPLES_PER_CLASS.* must be 5 numbers.* got 0"):
        loss.per_anchor(torch.zeros(1, 5), torch.tensor([0]))


def test_a_seed_that_is_given_stays(cfg, tmp_path):
    cfg.SEED, cfg.OUTPUT_DIR = 7, str(tmp_path)
    settle_seed(cfg, resume=False)
    assert cfg.SEED == 7


def test_without_one_a_seed_is_drawn_each_time(cfg, tmp_path):
    cfg.OUTPUT_DIR = str(tmp_path)
    drawn = set()
    for _ in range(3):
        cfg.SEED = -1
        settle_seed(cfg, resume=True)  # no checkpoint to resume from
        drawn.add(cfg.SEED)
    assert len(drawn) == 3
    assert min(drawn) >= 0


def test_a_resumed_run_takes_the_seed_that_it_has_drawn(cfg, tmp_path):
    cfg.OUTPUT_DIR = str(tmp_path)
    (tmp_path / "config.yaml").write_text("SEED: 123\n")
    cfg.SEED = -1
    settle_seed(cfg, resume=True)
    assert cfg.SEED == 123
    cfg.SEED = -1
    settle_seed(cfg, resume=False)
    assert cfg.SEED != 123


@pytest.mark.parametrize("content", [b"", b"SEED: [", b"[1]", b"{}", b"SEED: x", b"\xff"])
def test_a_damaged_config_of_the_run_to_resume_is_named(cfg, tmp_path, content):
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path), -1
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.yaml is damaged.*: state the SEED of the run"):
        settle_seed(cfg, resume=True)


def test_flags_become_options_of_a_checkpointer():
    given = "--resume-fallback --allow-config-change A.B --allow-config-change C --trust-pickle"
    options = checkpoint_options(argument_parser().parse_args(given.split()))
    assert options == {"allowed_changes": ("A.B", "C"), "fall_back": True, "trust_pickle": True}
    options = checkpoint_options(argument_parser().parse_args([]))
    assert options == {"allowed_changes": (), "fall_back": False, "trust_pickle": False}


def brute_force_share(cfg, num_classes):
    """Return positives over elements, from the labels of the detector itself."""
    model = build_model(cfg)
    positives = elements = 0
    for image in model_input(cfg):
        features = model.backbone(model.preprocess_image([image]).tensor)
        anchors = model.anchor_generator([features[f] for f in model.head_in_features])
        labels, _ = model.label_anchors(anchors, [image["instances"]])
        counted = labels[0] >= 0
        positives += int((counted & (labels[0] < num_classes)).sum())
        elements += int(counted.sum()) * num_classes
    return positives / elements


def model_input(cfg):
    mapper = CrowdDatasetMapper(cfg, is_train=True)
    mapper.augmentations = T.AugmentationList(build_augmentation(cfg, is_train=False))
    return [mapper(x) for x in DatasetCatalog.get("tiny_shapes")]


def prior_cfg(file):
    cfg = narrow_cfg(file)
    cfg.DATASETS.TRAIN = ("tiny_shapes",)
    cfg.MODEL.RETINANET.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    return cfg


def test_an_automatic_prior_is_the_share_of_positives_and_the_config_has_the_number(tiny_shapes):
    cfg = prior_cfg("Shapes-Detection/retinanet_small.yaml")
    expected = brute_force_share(cfg, num_classes=5)
    cfg.merge_from_list(["MODEL.RETINANET.PRIOR_PROB", "auto"])
    settle_from_training_set(cfg)
    assert pytest.approx(expected, rel=0.005) == cfg.MODEL.RETINANET.PRIOR_PROB
    bias = build_model(cfg).head.cls_score.bias
    torch.testing.assert_close(bias.sigmoid().mean().item(), expected, rtol=0.005, atol=0)


def test_an_rpn_has_an_automatic_prior_of_one_class(tiny_shapes):
    cfg = prior_cfg("Shapes-Detection/faster_rcnn_small.yaml")
    cfg.merge_from_list(["MODEL.FOCAL.RPN.PRIOR_PROB", "auto"])
    settle_from_training_set(cfg)
    assert 1e-4 < cfg.MODEL.FOCAL.RPN.PRIOR_PROB < 0.1
    assert cfg.MODEL.RETINANET.PRIOR_PROB == 0.01


@pytest.mark.parametrize("key", ["MODEL.RETINANET.PRIOR_PROB", "MODEL.FOCAL.RPN.PRIOR_PROB"])
def test_a_model_needs_the_number_and_a_check_of_an_arm_does_not(key):
    file = "retinanet_small" if "RETINANET" in key else "faster_rcnn_small"
    cfg = narrow_cfg(f"Shapes-Detection/{file}.yaml", key, "auto")
    cfg.MODEL.RPN.HEAD_NAME = "PriorRPNHead"
    with pytest.raises(ValueError, match=f"^{key} must be a number when a model is built"):
        build_model(cfg)
    build_without_memory(cfg)
    with pytest.raises(ValueError, match=rf"^{key} must be a number in \(0, 1\) or auto"):
        cfg.merge_from_list([key, [0.5]])
    cfg.merge_from_list([key, 0.5])
