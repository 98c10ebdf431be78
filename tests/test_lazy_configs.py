"""Detectron2's LazyConfig: the example of docs/lazy-configs.md, and components by arguments."""

import itertools

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import AMPTrainer, SimpleTrainer, hooks
from detectron2.modeling import ResNet, RetinaNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.utils.events import EventStorage

from focal_plugin.losses import (
    GIoULoss,
    SigmoidFocalLoss,
    SmoothL1Loss,
    SoftmaxFocalLoss,
)
from focal_plugin.mining import OHEMMiner
from focal_plugin.modeling import (
    FocalCascadeROIHeads,
    FocalFastRCNNOutputLayers,
    FocalRetinaNet,
    FocalROIHeads,
    FocalRPN,
)
from focal_plugin.modeling.heads import FocalRetinaNetHead
from focal_plugin.modeling.normalizer import EMANormalizer, SampleSizeNormalizer

from .conftest import ROOT
from .modeling.toy import gradients_of, toy_batch

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "configs/lazy/retinanet_R_50_FPN_shapes.py"


def narrow(model):
    """Return the same model with a ResNet of one narrow block per stage."""
    bottom_up = model.backbone.bottom_up
    bottom_up.stem.update(out_channels=8, norm="BN")
    widths = [8, 16, 24, 16, 24]
    bottom_up.stages = [
        L(ResNet.make_stage)(
            block_class=BasicBlock,
            num_blocks=1,
            stride_per_block=[2 if stage else 1],
            in_channels=width,
            out_channels=out,
            norm="BN",
        )
        for stage, (width, out) in enumerate(itertools.pairwise(widths))
    ]
    model.backbone.out_channels = 32
    return model


def zoo_retinanet(**changes):
    model = narrow(model_zoo.get_config("common/models/retinanet.py").model)
    model.backbone.top_block.in_channels = 24
    model.head.input_shape = [{"_target_": "detectron2.layers.ShapeSpec", "channels": 32}] * 5
    model.head.conv_dims = [32]
    model.update(changes)
    return model


def zoo_mask_rcnn():
    model = narrow(model_zoo.get_config("common/models/mask_rcnn_fpn.py").model)
    spec = "detectron2.layers.ShapeSpec"
    model.proposal_generator.head.in_channels = 32
    box_head, mask_head = model.roi_heads.box_head, model.roi_heads.mask_head
    box_head.input_shape = {"_target_": spec, "channels": 32, "height": 7, "width": 7}
    box_head.fc_dims = [32]
    model.roi_heads.box_predictor.input_shape = {"_target_": spec, "channels": 32}
    mask_head.input_shape = {"_target_": spec, "channels": 32, "height": 14, "width": 14}
    mask_head.conv_dims = [8, 8]
    return model


def load_example(*overrides):
    """Return the example with minimal changes for a test by `LazyConfig.apply_overrides`."""
    cfg = LazyConfig.load(str(EXAMPLE))
    small = [
        "dataloader.train.dataset.names=tiny_shapes",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
        "train.max_iter=2",
        "train.device=cpu",
    ]
    cfg = LazyConfig.apply_overrides(cfg, [*small, *overrides])
    cfg.model = zoo_retinanet(
        **{key: cfg.model[key] for key in ("_target_", "cls_loss", "box_loss", "num_classes")}
    )
    return cfg


def train(cfg):
    """Train as tools/lazyconfig_train_net.py does."""
    torch.manual_seed(0)
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    loader = instantiate(cfg.dataloader.train)
    trainer_class = AMPTrainer if cfg.train.amp.enabled else SimpleTrainer
    trainer = trainer_class(model, loader, instantiate(cfg.optimizer))
    trainer.register_hooks([hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))])
    trainer.train(0, cfg.train.max_iter)
    return trainer


def test_the_example_has_at_most_twenty_user_lines():
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and '"""' not in line]
    assert len(lines) <= 20


def test_the_example_trains_as_detectron2s_own_script_does(tiny_shapes):
    trainer = train(load_example())
    assert type(trainer.model) is FocalRetinaNet
    assert type(trainer.model.cls_loss) is SigmoidFocalLoss
    assert type(trainer.model.box_loss) is GIoULoss
    latest = trainer.storage.latest()
    assert {"loss_cls", "loss_box_reg", "num_pos_anchors"} <= latest.keys()
    assert latest["total_loss"][0] > 0


def test_an_override_of_the_command_line_reaches_a_part():
    target = "focal_plugin.losses.SmoothL1Loss"
    overrides = ["model.cls_loss.gamma=0.5", f"model.box_loss={{_target_: {target}, beta: 0.1}}"]
    model = instantiate(load_example(*overrides).model)
    assert model.cls_loss.gamma == 0.5
    assert type(model.box_loss) is SmoothL1Loss
    assert model.box_loss.beta == 0.1


def test_the_example_survives_its_file(tmp_path):
    """Detectron2 writes the config of a run as YAML, and reads it again."""
    LazyConfig.save(LazyConfig.load(str(EXAMPLE)), str(tmp_path / "config.yaml"))
    loaded = LazyConfig.load(str(tmp_path / "config.yaml"))
    loaded.model.backbone.bottom_up.stages.depth = 18
    del loaded.model.backbone.bottom_up.stages.stride_in_1x1
    loaded.model.backbone.top_block.in_channels = 512
    model = instantiate(loaded.model)
    assert type(model) is FocalRetinaNet
    assert model.cls_loss.gamma == 1.5


def test_without_components_a_retinanet_equals_detectron2s():
    batch = toy_batch()
    results = []
    for target in (FocalRetinaNet, RetinaNet):
        torch.manual_seed(0)
        model = instantiate(zoo_retinanet(_target_=target, focal_loss_gamma=1.0)).train()
        results.append((list(model.state_dict()), *gradients_of(model, batch)))
    (keys, losses, gradients), (stock_keys, stock_losses, stock_gradients) = results
    assert keys == stock_keys
    for name, loss in stock_losses.items():
        torch.testing.assert_close(losses[name], loss, rtol=2e-6, atol=0)
    for name, gradient in stock_gradients.items():
        assert (gradients[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name


def test_without_components_the_others_use_detectron2s_arguments():
    retinanet = instantiate(zoo_retinanet(_target_=FocalRetinaNet, smooth_l1_beta=0.1))
    assert (retinanet.cls_loss.alpha, retinanet.cls_loss.gamma) == (0.25, 2.0)
    assert retinanet.box_loss.beta == 0.1
    assert type(retinanet.normalizer) is EMANormalizer
    config = zoo_mask_rcnn().proposal_generator
    config.update(_target_=FocalRPN, batch_size_per_image=64, box_reg_loss_type="giou")
    rpn = instantiate(config)
    assert type(rpn.box_loss) is GIoULoss
    assert type(rpn.normalizer) is SampleSizeNormalizer
    assert rpn.normalizer.batch_size_per_image == 64


def test_a_softmax_loss_takes_a_head_of_ours():
    model = zoo_retinanet(_target_=FocalRetinaNet, cls_loss=L(SoftmaxFocalLoss)())
    model.head.update(_target_=FocalRetinaNetHead, softmax=True)
    model.miner = L(OHEMMiner)(num_keep=64)
    losses, _ = gradients_of(instantiate(model), toy_batch())
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("cascade", [False, True])
def test_a_detector_of_two_stages_trains_a_step(cascade):
    model = zoo_mask_rcnn()
    model.proposal_generator.update(
        _target_=FocalRPN, cls_loss=L(SigmoidFocalLoss)(gamma=1.0), sampling="all"
    )
    predictor = model.roi_heads.box_predictor
    predictor.update(
        _target_=FocalFastRCNNOutputLayers, cls_loss=L(SoftmaxFocalLoss)(), prior_prob=0.01
    )
    model.roi_heads.update(_target_=FocalROIHeads)
    del model.roi_heads.mask_in_features, model.roi_heads.mask_pooler, model.roi_heads.mask_head
    if cascade:
        heads = model.roi_heads
        box_head, matcher = heads.pop("box_head"), heads.pop("proposal_matcher")
        predictor = heads.pop("box_predictor")
        predictor.update(cls_agnostic_bbox_reg=True, num_classes=80)
        heads.update(
            _target_=FocalCascadeROIHeads,
            box_heads=[box_head] * 3,
            box_predictors=[predictor] * 3,
            proposal_matchers=[matcher] * 3,
        )
    built = instantiate(model).train()
    assert type(built.proposal_generator) is FocalRPN
    with EventStorage():
        losses, gradients = gradients_of(built, toy_batch())
    of_boxes = {f"loss_cls_stage{k}" for k in range(3)} if cascade else {"loss_cls"}
    assert {"loss_rpn_cls", "loss_rpn_loc", *of_boxes} <= losses.keys()
    assert all(loss.isfinite() for loss in losses.values())
    assert gradients["proposal_generator.rpn_head.objectness_logits.weight"].abs().max() > 0
