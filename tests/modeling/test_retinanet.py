"""FocalRetinaNet: comparison with stock RetinaNet, and the effect of its own keys."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet
from detectron2.modeling.meta_arch import retinanet as stock_retinanet
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.utils.events import EventStorage

from focal_plugin.losses import (
    SigmoidFocalLoss,
    SoftmaxFocalLoss,
    sigmoid_cross_entropy_loss,
    sigmoid_focal_loss,
)
from focal_plugin.losses.build import ClassificationLoss
from focal_plugin.modeling import FocalRetinaNet
from focal_plugin.modeling.normalizer import NORMALIZERS

from .toy import NUM_CLASSES, gradients_of, losses_of, toy_batch, toy_cfg, toy_model


@pytest.fixture
def batch():
    return toy_batch()


def make_pair(*opts):
    """Return our detector and stock's, with the same keys and the same weights."""
    ours, stock = toy_model(*opts), toy_model("MODEL.META_ARCHITECTURE", "RetinaNet", *opts)
    assert type(ours) is FocalRetinaNet
    assert type(stock) is RetinaNet
    stock.load_state_dict(ours.state_dict())
    return ours, stock


@pytest.fixture
def pair():
    return make_pair()


def test_group_norm_builds_although_the_head_of_release_0_6_asks_for_one_channel(monkeypatch):
    initialize = RetinaNetHead.__init__.__wrapped__

    def __init__(self, *, norm="", **options):  # noqa: N807 - `configurable` requires the name
        if norm == "GN" or callable(norm):
            stock_retinanet.get_norm(norm, 1)
        initialize(self, norm=norm, **options)

    new = toy_model("MODEL.RETINANET.NORM", "GN").state_dict()
    monkeypatch.setattr(RetinaNetHead, "__init__", configurable(__init__))
    old = toy_model("MODEL.RETINANET.NORM", "GN").state_dict()
    assert list(old) == list(new)
    assert all(torch.equal(old[name], new[name]) for name in new)
    with pytest.raises(ValueError, match="num_channels"):
        toy_model("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NORM", "GN")


def test_state_dict_keys_are_stocks(pair):
    ours, stock = pair
    assert list(ours.state_dict()) == list(stock.state_dict())


@pytest.mark.parametrize(
    "opts",
    [
        [],
        ["MODEL.RETINANET.SMOOTH_L1_LOSS_BETA", 0.1, "MODEL.RETINANET.FOCAL_LOSS_GAMMA", 1.0],
        ["MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "giou", "MODEL.RETINANET.FOCAL_LOSS_ALPHA", -1.0],
    ],
    ids=["defaults", "smooth_l1", "giou"],
)
def test_losses_and_all_gradients_are_stocks_over_several_steps(opts, batch):
    """It holds at the default keys, and for other values of stock's keys."""
    ours, stock = make_pair(*opts)
    for step in range(3):  # the normalizer changes in between
        losses, gradients = gradients_of(ours, batch[: step + 1])
        stock_losses, stock_gradients = gradients_of(stock, batch[: step + 1])
        assert list(losses) == list(stock_losses)
        for name, loss in losses.items():
            torch.testing.assert_close(loss, stock_losses[name], rtol=2e-6, atol=0)
        assert gradients.keys() == stock_gradients.keys()
        for name, gradient in gradients.items():
            expected = stock_gradients[name]
            assert (gradient - expected).norm() <= 1e-5 * expected.norm() + 1e-9, name


def test_the_batch_that_parity_is_shown_on_has_every_kind_of_label(pair, batch):
    ours, _ = pair
    with torch.no_grad():
        images = ours.preprocess_image(batch)
        features = ours.backbone(images.tensor)
        anchors = ours.anchor_generator([features[f] for f in ours.head_in_features])
        labels, _ = ours.label_anchors(anchors, [x["instances"] for x in batch])
    kinds = set(torch.cat(labels).tolist())
    assert {-1, 0, 3, NUM_CLASSES - 1, NUM_CLASSES} <= kinds


def test_the_logged_number_of_positives_is_stocks(pair, batch):
    logged = []
    for model in pair:
        with EventStorage() as storage:
            model(batch)
        logged.append(storage.latest()["num_pos_anchors"][0])
    assert logged[0] == logged[1] > 0


def test_detections_are_stocks(pair, batch):
    with torch.no_grad():
        ours, stock = (model.eval()(batch) for model in pair)
    for mine, theirs in zip(ours, stock, strict=True):
        mine, theirs = mine["instances"], theirs["instances"]
        assert torch.equal(mine.pred_boxes.tensor, theirs.pred_boxes.tensor)
        assert torch.equal(mine.scores, theirs.scores)
        assert torch.equal(mine.pred_classes, theirs.pred_classes)


def test_detections_are_not_empty_in_the_comparison_above(pair, batch):
    ours, stock = pair
    for model in pair:
        model.test_score_thresh = 0.0
    test_detections_are_stocks((ours, stock), batch)
    with torch.no_grad():
        assert len(ours(batch)[0]["instances"]) > 0


def test_the_class_score_bias_is_the_prior():
    model = toy_model()
    torch.testing.assert_close(
        model.head.cls_score.bias, torch.full_like(model.head.cls_score.bias, -4.59511985)
    )


def test_the_first_loss_of_a_new_model_is_small_with_the_prior_and_huge_without(batch):
    fresh = losses_of(toy_model(), batch)["loss_cls"]
    without = losses_of(toy_model("MODEL.RETINANET.PRIOR_PROB", 0.5), batch)["loss_cls"]
    assert fresh < 3
    assert without > 100 * fresh


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        (["MODEL.RETINANET.FOCAL_LOSS_GAMMA", 0.5], {"gamma": 0.5, "alpha": 0.25}),
        (["MODEL.RETINANET.FOCAL_LOSS_ALPHA", -1.0], {"gamma": 2.0, "alpha": None}),
    ],
)
def test_stock_keys_reach_the_loss(opts, expected):
    loss = toy_model(*opts).cls_loss
    assert {name: getattr(loss, name) for name in expected} == expected


def test_the_named_loss_is_the_one_that_is_summed(batch):
    """Recompute the cross entropy from the head's own outputs and labels."""
    opts = ["MODEL.FOCAL.CLS_LOSS.NAME", "SigmoidCrossEntropyLoss"]
    opts += ["MODEL.RETINANET.FOCAL_LOSS_ALPHA", 0.75, "MODEL.FOCAL.NORMALIZER.NAME", "fixed"]
    model = toy_model(*opts)
    logits, labels = _capture(model, batch)
    expected = sigmoid_cross_entropy_loss(torch.cat(logits, 1), labels, alpha=0.75) / 100
    torch.testing.assert_close(losses_of(model, batch)["loss_cls"], expected)


def test_per_image_divides_each_image_by_its_own_positives(batch):
    model = toy_model("MODEL.FOCAL.NORMALIZER.NAME", "per_image")
    logits, labels = _capture(model, batch)
    expected = sum(
        sigmoid_focal_loss(torch.cat(logits, 1)[i], labels[i])
        / max(((labels[i] >= 0) & (labels[i] < NUM_CLASSES)).sum().item(), 1)
        for i in range(len(batch))
    ) / len(batch)
    torch.testing.assert_close(losses_of(model, batch)["loss_cls"], expected)


def test_per_image_box_loss_is_the_mean_of_single_images(batch):
    """The single images have one size, because padding changes the anchors."""
    batch = [batch[0], {**batch[0], "image": batch[0]["image"].flip(0)}]
    batch[1]["instances"] = batch[0]["instances"][:1]
    together = losses_of(toy_model("MODEL.FOCAL.NORMALIZER.NAME", "per_image"), batch)
    alone = [
        losses_of(toy_model("MODEL.FOCAL.NORMALIZER.NAME", "batch"), [image]) for image in batch
    ]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2)


def test_the_normalizer_is_updated_once_a_step(batch):
    model = toy_model()
    losses_of(model, batch)
    first = model.normalizer.mean.item()
    losses_of(model, batch)
    assert first != 100
    assert model.normalizer.mean.item() - first == pytest.approx(0.9 * (first - 100), rel=1e-4)


def test_the_normalizer_survives_a_checkpoint(tmp_path, batch):
    trained, resumed = toy_model(), toy_model()
    losses_of(trained, batch)
    DetectionCheckpointer(trained, str(tmp_path)).save("model")
    checkpoint = tmp_path / "model.pth"
    torch.load(checkpoint, weights_only=True)  # it needs no trusted unpickler
    DetectionCheckpointer(resumed).load(str(checkpoint))
    assert trained.normalizer.mean.item() != 100
    assert resumed.normalizer.mean.item() == trained.normalizer.mean.item()


def test_stock_weights_load_without_a_missing_or_unexpected_key(tmp_path):
    stock, ours = toy_model("MODEL.META_ARCHITECTURE", "RetinaNet"), toy_model()
    DetectionCheckpointer(stock, str(tmp_path)).save("zoo")
    incompatible = ours.load_state_dict(torch.load(tmp_path / "zoo.pth")["model"])
    assert not incompatible.missing_keys
    assert not incompatible.unexpected_keys


def test_a_batch_without_objects_has_finite_losses_and_no_box_gradient(batch):
    losses, gradients = gradients_of(toy_model(), [batch[1]])
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_box_reg"] == 0
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["head.bbox_pred.weight"].abs().max() == 0
    assert gradients["head.cls_score.weight"].abs().max() > 0


class _MeanLoss(ClassificationLoss):
    """Loss that is normalized already and requires all levels at once."""

    own_normalizer = True
    decomposes = False

    def forward(self, logits, labels, *, quality=None):
        self.shape_seen = tuple(logits.shape)
        return logits.mean()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_attributes_of_the_loss_decide_on_division_and_on_levels(normalizer, batch):
    model = toy_model("MODEL.FOCAL.NORMALIZER.NAME", normalizer)
    model.cls_loss = _MeanLoss()
    logits, labels = _capture(model, batch)
    loss = losses_of(model, batch)["loss_cls"]
    torch.testing.assert_close(loss, torch.cat(logits, 1).mean())
    assert model.cls_loss.shape_seen == (*labels.shape, NUM_CLASSES)


def test_a_softmax_loss_on_a_sigmoid_head_is_refused():
    explicit = FocalRetinaNet.from_config(toy_cfg())
    with pytest.raises(ValueError, match=r"SoftmaxFocalLoss .* MODEL\.FOCAL\.HEAD\.NAME|HEAD"):
        FocalRetinaNet(**{**explicit, "cls_loss": SoftmaxFocalLoss()})


def test_can_be_constructed_without_a_config():
    explicit = FocalRetinaNet.from_config(toy_cfg())
    explicit["cls_loss"] = SigmoidFocalLoss(gamma=1.5)
    assert FocalRetinaNet(**explicit).cls_loss.gamma == 1.5


def test_is_registered():
    assert META_ARCH_REGISTRY.get("FocalRetinaNet") is FocalRetinaNet


def _capture(model, batch):
    """Return the logits and stacked labels that :meth:`FocalRetinaNet.losses` receives."""
    captured = {}
    losses = model.losses

    def spy(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes, **others):
        captured.update(
            logits=[x.flatten(1, -2) for x in pred_logits], labels=torch.stack(gt_labels)
        )
        return losses(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes, **others)

    model.losses = spy
    losses_of(model, batch)
    model.losses = losses
    return captured["logits"], captured["labels"]
