import pytest
import torch

from focal_plugin import get_cfg
from focal_plugin.data import count_objects
from focal_plugin.engine.command_line import count_samples_per_class
from focal_plugin.losses import build_cls_loss


@pytest.fixture
def cfg(tiny_shapes):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("tiny_shapes",)
    cfg.MODEL.RETINANET.NUM_CLASSES = 5
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = "ClassBalancedFocalLoss"
    return cfg


def test_a_loss_that_wants_class_counts_gets_those_of_the_training_set(cfg):
    count_samples_per_class(cfg)
    counts = cfg.MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS
    assert counts == count_objects(["tiny_shapes"], num_classes=5)
    weights = build_cls_loss(cfg).weights
    assert weights.argmin() == counts.index(max(counts))


def test_counts_that_the_config_gives_are_kept(cfg):
    cfg.MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS = [5, 4, 3, 2, 1]
    count_samples_per_class(cfg)
    assert cfg.MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS == [5, 4, 3, 2, 1]


def test_the_losses_of_two_stages_get_theirs_proposals_have_one_class(cfg):
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = "SigmoidFocalLoss"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    cfg.MODEL.FOCAL.RPN.CLS_LOSS.NAME = "ClassBalancedFocalLoss"
    cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.NAME = "EqualizationLoss"
    count_samples_per_class(cfg)
    counts = count_objects(["tiny_shapes"], num_classes=5)
    assert cfg.MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS == []
    assert [sum(counts)] == cfg.MODEL.FOCAL.RPN.CLS_LOSS.SAMPLES_PER_CLASS
    assert counts == cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS


@pytest.mark.parametrize("name", ["SigmoidFocalLoss", "no such loss"])
def test_no_other_loss_reads_the_data(cfg, name):
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = name
    cfg.DATASETS.TRAIN = ("no such data",)
    count_samples_per_class(cfg)
    assert cfg.MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS == []


def test_without_counts_the_loss_can_be_built_and_says_what_it_lacks_when_called(cfg):
    loss = build_cls_loss(cfg)
    with pytest.raises(ValueError, match=r"SAMPLES_PER_CLASS.* must be 5 numbers.* got 0"):
        loss.per_anchor(torch.zeros(1, 5), torch.tensor([0]))
