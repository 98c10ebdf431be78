"""FocalRetinaNet with the components that its keys name."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F
from torchvision.ops import box_iou

from focal_plugin.losses import (
    BOX_LOSS_REGISTRY,
    CLS_LOSS_REGISTRY,
    sigmoid_cross_entropy_loss,
    softmax_focal_loss,
)
from focal_plugin.mining import MINER_REGISTRY, Miner, top_k_keep_mask
from focal_plugin.modeling import FocalRetinaNet
from focal_plugin.modeling.normalizer import NORMALIZERS
from focal_plugin.ops.layout import Layout

from ..each import each
from ..registrations import DENSE_CLS_LOSSES
from .toy import NUM_CLASSES, gradients_of, losses_of, tiny_model, toy_batch, toy_cfg

LOSS, BOX_LOSS = "MODEL.FOCAL.CLS_LOSS.NAME", "MODEL.FOCAL.BOX_LOSS.NAME"
MINER, NORMALIZER = "MODEL.FOCAL.MINING.NAME", "MODEL.FOCAL.NORMALIZER.NAME"
CROSS_ENTROPY = [LOSS, "SigmoidCrossEntropyLoss", "MODEL.RETINANET.FOCAL_LOSS_ALPHA", -1.0]
FIXED = [NORMALIZER, "fixed"]
SAMPLES = ["MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS", list(range(1, NUM_CLASSES + 1))]
WITH_ROWS = [name for name in DENSE_CLS_LOSSES if dict(CLS_LOSS_REGISTRY)[name].has_rows]


@pytest.fixture
def batch():
    return toy_batch()


def arguments_of_losses(model, batch):
    """Return the arguments of :meth:`FocalRetinaNet.losses`, and the losses of the model."""
    captured = {}
    losses = model.losses

    def spy(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes, **others):
        pred_logits, pred_anchor_deltas = (
            [x.flatten(1, -2) for x in levels] for levels in (pred_logits, pred_anchor_deltas)
        )
        captured.update(
            anchors=Boxes.cat(anchors).tensor,
            logits=torch.cat(pred_logits, 1),
            labels=torch.stack(gt_labels),
            deltas=torch.cat(pred_anchor_deltas, 1),
            gt_boxes=torch.stack(gt_boxes),
        )
        captured["logits"].retain_grad()
        return losses(
            anchors,
            captured["logits"].split([x.shape[1] for x in pred_logits], 1),
            gt_labels,
            pred_anchor_deltas,
            gt_boxes,
            **others,
        )

    model.losses = spy
    captured["losses"] = losses_of(model, batch)
    model.losses = losses
    return captured


# --- each loss, under each normalizer, with each miner


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE_CLS_LOSSES)
@pytest.mark.parametrize("normalizer", ["ema", "per_image"])
def test_every_loss_has_finite_gradients(name, normalizer, batch):
    if normalizer == "per_image" and name not in WITH_ROWS:
        return
    model = tiny_model(LOSS, name, NORMALIZER, normalizer, *SAMPLES)
    losses, gradients = gradients_of(model, batch)
    assert all(loss.isfinite() and loss.shape == () for loss in losses.values())
    assert losses["loss_cls"] > 0
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["head.cls_score.weight"].abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(dict(BOX_LOSS_REGISTRY)))
@pytest.mark.parametrize("normalizer", ["ema", "per_image"])
def test_every_box_loss_has_finite_gradients_and_touches_the_box_branch_only(
    name, normalizer, batch
):
    model = tiny_model(BOX_LOSS, name, NORMALIZER, normalizer)
    losses = losses_of(model, batch)
    assert losses["loss_box_reg"] > 0
    losses["loss_box_reg"].backward()
    assert model.head.bbox_pred.weight.grad.isfinite().all()
    assert model.head.bbox_pred.weight.grad.abs().max() > 0
    assert model.head.cls_score.weight.grad is None


@pytest.mark.slow
@pytest.mark.parametrize("loss", WITH_ROWS)
def test_mining_composes_with_every_loss(loss, batch):
    model = tiny_model(LOSS, loss, MINER, "OHEMMiner", *SAMPLES)
    losses, gradients = gradients_of(model, batch)
    assert losses["loss_cls"] > 0
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.slow
@pytest.mark.parametrize("miner", sorted(dict(MINER_REGISTRY)))
@pytest.mark.parametrize("normalizer", sorted(NORMALIZERS))
def test_every_miner_works_under_every_normalizer(miner, normalizer, batch):
    model = tiny_model(*CROSS_ENTROPY, MINER, miner, NORMALIZER, normalizer)
    assert all(loss.isfinite() and loss > 0 for loss in losses_of(model, batch).values())


@pytest.mark.parametrize("part", [(MINER, "OHEMMiner"), (NORMALIZER, "per_image")])
def test_a_loss_without_rows_refuses_what_needs_them(part):
    for name in set(DENSE_CLS_LOSSES) - set(WITH_ROWS):
        with pytest.raises(ValueError, match=f"^{name} compares all logits with each other"):
            tiny_model(LOSS, name, *part, *SAMPLES)


# --- mining


@pytest.mark.parametrize("miner", sorted(dict(MINER_REGISTRY)))
def test_only_the_kept_anchors_have_a_gradient(miner, batch):
    model = tiny_model(*CROSS_ENTROPY, *FIXED, MINER, miner)
    given = arguments_of_losses(model, batch)
    given["losses"]["loss_cls"].backward()
    touched = given["logits"].grad.abs().sum(-1) > 0  # (N, R)
    num_pos = ((given["labels"] >= 0) & (given["labels"] < NUM_CLASSES)).sum(1)
    limit = 4 * num_pos.clamp(min=1) if miner == "SSDMiner" else torch.tensor(128)
    assert (touched.sum(1) <= limit).all()
    assert touched.any()
    assert not touched[given["labels"] == -1].any()
    kept_labels = given["labels"].masked_fill(~touched, -1)
    expected = sigmoid_cross_entropy_loss(given["logits"], kept_labels) / 100
    torch.testing.assert_close(given["losses"]["loss_cls"], expected)


class LargestBoxMiner(Miner):
    """Miner that keeps the largest box of each image."""

    needs_boxes = True

    def candidates(self, loss, labels, boxes):
        every = torch.arange(labels.shape[1])
        sides = torch.stack([boxes(image, every) for image in range(len(labels))])
        areas = (sides[..., 2:] - sides[..., :2]).prod(dim=2)
        return areas == areas.amax(dim=1, keepdim=True)

    def select(self, loss, candidates, positives, *, num_images):
        return candidates


def test_a_custom_miner_receives_the_decoded_boxes(batch):
    model = tiny_model(*CROSS_ENTROPY, *FIXED)
    model.miner = LargestBoxMiner(num_classes=80)
    assert losses_of(model, batch)["loss_cls"].isfinite()


def test_the_miner_ranks_by_the_loss_and_the_number_kept_is_logged(batch):
    model = tiny_model(*CROSS_ENTROPY, *FIXED, MINER, "TopKMiner", "MODEL.FOCAL.MINING.NUM_KEEP", 9)
    given = arguments_of_losses(model, batch)
    per_anchor = model.cls_loss.per_anchor(given["logits"], given["labels"])
    keep = torch.stack(
        [
            top_k_keep_mask(loss, labels, num_keep=9)
            for loss, labels in zip(per_anchor, given["labels"], strict=True)
        ]
    )
    torch.testing.assert_close(given["losses"]["loss_cls"], per_anchor[keep].sum() / 100)
    with EventStorage() as storage:
        model(batch)
    assert storage.latest()["num_kept_anchors"][0] == 9


def test_the_box_loss_can_follow_the_miner(batch):
    opts = [*CROSS_ENTROPY, *FIXED, MINER, "TopKMiner", "MODEL.FOCAL.MINING.NUM_KEEP", 3]
    key = "MODEL.FOCAL.MINING.BOX_LOSS_ON"
    everywhere = losses_of(tiny_model(*opts), batch)["loss_box_reg"]
    unmined = losses_of(tiny_model(*FIXED), batch)["loss_box_reg"]
    kept = losses_of(tiny_model(*opts, key, "kept"), batch)["loss_box_reg"]
    torch.testing.assert_close(everywhere, unmined)
    assert 0 < kept < everywhere


def test_the_sum_can_be_divided_by_the_number_kept(batch):
    opts = [*CROSS_ENTROPY, *FIXED, MINER, "TopKMiner", "MODEL.FOCAL.MINING.NUM_KEEP", 10]
    usual = losses_of(tiny_model(*opts), batch)
    by_kept = losses_of(tiny_model(*opts, "MODEL.FOCAL.MINING.DIVIDE_BY", "kept"), batch)
    torch.testing.assert_close(by_kept["loss_cls"] * 30, usual["loss_cls"] * 100)
    torch.testing.assert_close(by_kept["loss_box_reg"], usual["loss_box_reg"])


def test_ranking_by_both_losses_changes_what_is_kept(batch):
    opts = [*CROSS_ENTROPY, *FIXED, MINER, "TopKMiner", "MODEL.FOCAL.MINING.NUM_KEEP", 4]
    opts += ["MODEL.FOCAL.BOX_LOSS.NAME", "L1Loss"]
    seen = []
    for rank_by in ("cls", "cls_and_box"):
        model = tiny_model(*opts, "MODEL.FOCAL.MINING.RANK_BY", rank_by)
        model.miner.register_forward_pre_hook(lambda _, args: seen.append(args))
        given = arguments_of_losses(model, batch)
    (by_cls, labels, _), (by_both, *_) = seen
    positives = (labels >= 0) & (labels < NUM_CLASSES)
    anchors = given["anchors"].expand_as(given["deltas"])[positives]
    target = model.box2box_transform.get_deltas(anchors, given["gt_boxes"][positives])
    box = (given["deltas"][positives] - target).abs().sum(1)
    torch.testing.assert_close(by_both[positives] - by_cls[positives], box, rtol=1e-4, atol=1e-5)
    assert torch.equal(by_both[~positives], by_cls[~positives])


@pytest.mark.parametrize("boxes", ["decoded", "anchors"])
def test_suppression_sees_decoded_boxes_or_anchors(boxes, batch):
    model = tiny_model(*CROSS_ENTROPY, MINER, "OHEMMiner", "MODEL.FOCAL.MINING.NMS_BOXES", boxes)
    seen = []
    model.miner.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    given = arguments_of_losses(model, batch)
    expected = given["anchors"].expand_as(given["deltas"])
    if boxes == "decoded":
        decode = model.box2box_transform.apply_deltas
        expected = torch.stack([decode(deltas, given["anchors"]) for deltas in given["deltas"]])
    (boxes_of,) = seen
    every = torch.arange(expected.shape[1])
    torch.testing.assert_close(boxes_of(1, every), expected[1])
    some = torch.tensor([300, 7, 7])
    torch.testing.assert_close(boxes_of(0, some), expected[0, some])


# --- quality


@pytest.mark.parametrize("name", ["QualityFocalLoss", "VarifocalLoss"])
def test_quality_is_the_iou_of_the_decoded_box_with_its_object(name, batch):
    model = tiny_model(LOSS, name)
    torch.nn.init.normal_(model.head.bbox_pred.weight, std=0.02)  # boxes that differ from anchors
    seen = []
    of_levels = model.cls_loss.of_levels

    def spy(logits, labels, *, quality, scale):
        seen.extend(x.flatten(1) for x in quality)
        return of_levels(logits, labels, quality=quality, scale=scale)

    model.cls_loss.of_levels = spy
    given = arguments_of_losses(model, batch)
    quality = torch.cat(seen, dim=1)
    positives = (given["labels"] >= 0) & (given["labels"] < NUM_CLASSES)
    anchors = given["anchors"].expand_as(given["deltas"])[positives]
    boxes = model.box2box_transform.apply_deltas(given["deltas"][positives], anchors)
    expected = box_iou(boxes, given["gt_boxes"][positives]).diagonal()
    assert expected.std() > 0.05
    torch.testing.assert_close(quality[positives], expected)
    assert not quality.requires_grad
    assert (quality[~positives] == 0).all()


# --- softmax


def softmax_model(*opts):
    return tiny_model(LOSS, "SoftmaxFocalLoss", *FIXED, *opts)


def raw_logits(model, batch):
    """Return the softmax (N, R, K + 1), from the output of the last convolution."""
    features = model.backbone(model.preprocess_image(batch).tensor)
    per_level = []
    for name in model.head_in_features:
        x = model.head.cls_score.score(model.head.cls_subnet(features[name]))
        x = x.unflatten(1, (-1, NUM_CLASSES + 1)).permute(0, 3, 4, 1, 2)  # (N, H, W, A, K + 1)
        per_level.append(x.flatten(1, 3))
    return torch.cat(per_level, 1)


def test_a_softmax_loss_brings_its_head_and_sums_over_its_k_plus_1_logits(batch):
    model = softmax_model()
    given = arguments_of_losses(model, batch)
    expected = softmax_focal_loss(raw_logits(model, batch), given["labels"]) / 100
    torch.testing.assert_close(given["losses"]["loss_cls"], expected)


def test_the_background_is_added_in_the_memory_layout_of_the_head(batch, monkeypatch):
    """The loss reads it in place, and the gradient reaches the head without a transposition."""
    model, seen = softmax_model(), []
    of_levels = type(model.cls_loss).of_levels

    def record(self, logits, labels, **options):
        seen.extend(logits)
        return of_levels(self, logits, labels, **options)

    monkeypatch.setattr(type(model.cls_loss), "of_levels", record)
    losses_of(model, batch)
    assert seen
    for logits in seen:
        _, height, width, _, columns = logits.shape
        assert columns == NUM_CLASSES + 1
        assert (logits[..., -1] == 0).all()
        assert Layout.of(logits).shape[1:] == (columns, height * width)


def test_a_new_softmax_head_gives_background_all_but_the_prior(batch):
    model = softmax_model()
    torch.nn.init.zeros_(model.head.cls_score.weight)  # features have no effect
    background = raw_logits(model, batch).softmax(-1)[..., -1]
    torch.testing.assert_close(background, torch.full_like(background, 0.99))


def test_a_softmax_detector_scores_by_softmax(batch):
    model = softmax_model().eval()
    torch.nn.init.normal_(model.head.cls_score.weight, std=0.3)  # scores from the whole of (0, 1)
    model.test_score_thresh, model.test_nms_thresh = 0.0, 1.0
    model.test_topk_candidates = model.max_detections_per_image = 50
    with torch.no_grad():
        scores = model(batch[:1])[0]["instances"].scores
        probabilities = raw_logits(model, batch[:1]).softmax(-1)[..., :-1].flatten()
    torch.testing.assert_close(scores, probabilities.sort(descending=True).values[: len(scores)])
    assert scores.max() > 0.5


# --- initial weights


@pytest.mark.parametrize(
    "opts",
    [
        [],
        ["MODEL.FOCAL.HEAD.NAME", "SharedTowerRetinaNetHead"],
        ["MODEL.FOCAL.HEAD.CLASSIFIER", "cosine"],
        [LOSS, "SoftmaxFocalLoss"],
        ["MODEL.FOCAL.HEAD.NAME", "RetinaNetHead"],
    ],
)
def test_all_other_layers_start_as_in_stock_for_every_head(opts):
    torch.manual_seed(3)
    stock = build_model(toy_cfg("MODEL.META_ARCHITECTURE", "RetinaNet"))
    drawn_after_stock = torch.rand(4)
    torch.manual_seed(3)
    ours = build_model(toy_cfg(*opts))
    assert torch.equal(torch.rand(4), drawn_after_stock)
    stock_weights = stock.state_dict()
    same = [
        torch.equal(weight, stock_weights[key])
        for key, weight in ours.state_dict().items()
        if key in stock_weights and stock_weights[key].shape == weight.shape
    ]
    assert all(same)
    assert len(same) >= len(stock_weights) - 16  # a whole tower may be missing
    assert same


# --- crowds


def crowd_batch():
    """Return the first toy image, with its second object as a crowd region."""
    image = dict(toy_batch()[0])
    objects = image["instances"]
    classes = torch.tensor([3, -1])
    image["instances"] = Instances(
        objects.image_size, gt_boxes=objects.gt_boxes, gt_classes=classes
    )
    return [image]


def labels_of(model, batch):
    return arguments_of_losses(model, batch)["labels"][0]


def test_crowds_are_background_by_default_and_ignored_on_demand():
    without = dict(toy_batch()[0])
    without["instances"] = without["instances"][:1]
    stock = labels_of(tiny_model(), [without])
    assert torch.equal(labels_of(tiny_model(), crowd_batch()), stock)
    ignoring = tiny_model("MODEL.FOCAL.ANCHOR_LABELS.CROWD", "ignore")
    labels = labels_of(ignoring, crowd_batch())
    changed = labels != stock
    assert changed.any()
    assert (labels[changed] == -1).all()
    assert (stock[changed] == NUM_CLASSES).all()


def test_an_ignored_anchor_lies_in_the_crowd_by_seven_tenths():
    model = tiny_model("MODEL.FOCAL.ANCHOR_LABELS.CROWD", "ignore")
    given = arguments_of_losses(model, crowd_batch())
    anchors, labels = given["anchors"], given["labels"][0]
    crowd = crowd_batch()[0]["instances"].gt_boxes.tensor[1]
    sides = torch.minimum(anchors[:, 2:], crowd[2:]) - torch.maximum(anchors[:, :2], crowd[:2])
    inside = sides.clamp(min=0).prod(1) / (anchors[:, 2:] - anchors[:, :2]).prod(1)
    background = labels == NUM_CLASSES
    assert inside[background].max() < 0.7
    assert (labels[inside >= 0.7] != NUM_CLASSES).all()


@pytest.mark.parametrize("miner", sorted(dict(MINER_REGISTRY)))
def test_a_miner_never_picks_a_crowd_anchor(miner):
    labels = labels_of(tiny_model(MINER, miner), crowd_batch())
    ignoring = labels_of(tiny_model("MODEL.FOCAL.ANCHOR_LABELS.CROWD", "ignore"), crowd_batch())
    assert torch.equal(labels, ignoring)


def test_an_illegal_crowd_policy_names_its_key():
    with pytest.raises(ValueError, match=r"MODEL\.FOCAL\.ANCHOR_LABELS\.CROWD.*'drop'"):
        tiny_model("MODEL.FOCAL.ANCHOR_LABELS.CROWD", "drop")


# --- box losses, weights, state


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou", "smooth_l1"])
def test_detectron2s_own_key_names_a_box_loss_on_every_runtime(kind, batch):
    names = {"smooth_l1": "SmoothL1Loss", "giou": "GIoULoss"}
    names |= {"diou": "DIoULoss", "ciou": "CIoULoss"}
    by_stock_key = tiny_model("MODEL.RETINANET.BBOX_REG_LOSS_TYPE", kind)
    by_our_key = tiny_model(BOX_LOSS, names[kind])
    assert type(by_stock_key.box_loss) is type(by_our_key.box_loss)
    torch.testing.assert_close(losses_of(by_stock_key, batch), losses_of(by_our_key, batch))


def test_an_unknown_stock_box_loss_is_an_error_that_lists_the_known():
    with pytest.raises(KeyError, match=r"BBOX_REG_LOSS_TYPE.*ciou, diou, giou, smooth_l1"):
        tiny_model("MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "wiou")


@pytest.mark.parametrize("part", ["CLS_LOSS", "BOX_LOSS"])
def test_a_weight_scales_its_own_loss(part, batch):
    name = {"CLS_LOSS": "loss_cls", "BOX_LOSS": "loss_box_reg"}[part]
    plain = losses_of(tiny_model(), batch)
    weighted = losses_of(tiny_model(f"MODEL.FOCAL.{part}.WEIGHT", 2.5), batch)
    for key, loss in weighted.items():
        torch.testing.assert_close(loss, plain[key] * (2.5 if key == name else 1))


@each("part", ["CLS_LOSS", "BOX_LOSS"])
@each("weight", [-1.0, float("nan"), float("inf")])
def test_an_illegal_weight_names_its_key(part, weight):
    with pytest.raises(ValueError, match=rf"MODEL\.FOCAL\.{part}\.WEIGHT"):
        tiny_model(f"MODEL.FOCAL.{part}.WEIGHT", weight)


def test_a_weight_of_an_unknown_loss_is_refused():
    explicit = FocalRetinaNet.from_config(toy_cfg())
    with pytest.raises(ValueError, match=r"\['loss_box'\]"):
        FocalRetinaNet(**{**explicit, "loss_weight": {"loss_box": 2.0}})


@each("prior", [0.0, 1.0, -0.1])
@pytest.mark.parametrize("head", ["FocalRetinaNetHead", "RetinaNetHead"])
def test_an_illegal_prior_names_its_key(head, prior):
    with pytest.raises(ValueError, match=r"MODEL\.RETINANET\.PRIOR_PROB"):
        tiny_model("MODEL.RETINANET.PRIOR_PROB", prior, "MODEL.FOCAL.HEAD.NAME", head)


@pytest.mark.parametrize("normalizer", ["ema", "per_image"])
def test_a_loss_in_evaluation_mode_does_not_change_its_state(normalizer, batch):
    opts = [LOSS, "EqualizedFocalLoss", NORMALIZER, normalizer]
    model = tiny_model(*opts)
    model.cls_loss.eval()
    losses_of(model, batch)
    assert (model.cls_loss.gradients.negative == 0).all()


@pytest.mark.parametrize("normalizer", ["ema", "per_image"])
def test_a_stateful_loss_updates_once_per_step_and_not_in_evaluation(normalizer, batch):
    model = tiny_model(LOSS, "EqualizedFocalLoss", NORMALIZER, normalizer)
    given = arguments_of_losses(model, batch)
    once = model.cls_loss.gradients.negative.clone()
    assert (once > 0).all()
    alone = tiny_model(LOSS, "EqualizedFocalLoss").cls_loss
    alone.update(given["logits"], given["labels"])
    torch.testing.assert_close(once, alone.gradients.negative)
    with torch.no_grad():
        model.eval()(batch)
    assert torch.equal(model.cls_loss.gradients.negative, once)


def test_the_state_of_a_loss_is_in_the_checkpoint(batch):
    trained, resumed = (tiny_model(LOSS, "GHMLoss", BOX_LOSS, "GHMBoxLoss") for _ in range(2))
    losses_of(trained, batch)
    resumed.load_state_dict(trained.state_dict())
    for model in (trained, resumed):
        model.normalizer.mean.fill_(100)
    torch.testing.assert_close(losses_of(resumed, batch), losses_of(trained, batch))


@pytest.mark.parametrize("normalizer", sorted(NORMALIZERS))
def test_a_loss_with_its_own_normalizer_is_not_divided(normalizer, batch):
    opts = [LOSS, "GHMLoss", BOX_LOSS, "GHMBoxLoss"]
    torch.testing.assert_close(
        losses_of(tiny_model(*opts, NORMALIZER, normalizer), batch),
        losses_of(tiny_model(*opts), batch),
    )


def test_relative_logits_and_a_zero_are_the_softmax_of_the_raw_ones(batch):
    model = softmax_model()
    relative = arguments_of_losses(model, batch)["logits"]
    torch.testing.assert_close(
        F.pad(relative, (0, 1)).softmax(-1), raw_logits(model, batch).softmax(-1)
    )
