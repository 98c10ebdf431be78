"""Heads that draw their RoIs: quotas, IoUs, weights, and the random draws of stock."""

import pytest
import torch
from detectron2.structures import pairwise_iou

from focal_plugin.losses import SoftmaxCrossEntropyLoss
from focal_plugin.modeling.fast_rcnn import WEIGHTS
from focal_plugin.modeling.roi_sampler import LabeledRoIs, RoISampler, ScoredRoIs

from ..each import each
from .test_roi_heads import KEYS, SAMPLED, layers_of, make_heads, random_scene, run
from .toy import NUM_CLASSES

SAMPLER = f"{KEYS}.SAMPLER"
LOSS = (f"{KEYS}.CLS_LOSS.NAME", "SoftmaxCrossEntropyLoss")
NEGATIVES = ("random", "iou_balanced", "score_hlr")
SIZE = ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 24)


def sampled(*opts, name="SampledROIHeads", scene=None):
    """Return the heads, the RoIs that they train on, the losses and the logged scalars."""
    heads = make_heads(name, *LOSS, *SIZE, *opts)
    torch.manual_seed(1)
    return heads, *run(heads, *(scene or random_scene()))


def labeled(num_positives=6, num_negatives=40):
    generator = torch.Generator().manual_seed(0)
    size = num_positives + num_negatives
    is_positive = torch.arange(size) < num_positives
    iou = torch.rand(size, generator=generator) * 0.5 + 0.5 * is_positive
    return LabeledRoIs(is_positive, torch.arange(size) % 2, iou)


def scored(size=46):
    generator = torch.Generator().manual_seed(1)
    boxes = torch.rand(size, 4, generator=generator) * 50
    boxes[:, 2:] += boxes[:, :2]
    return ScoredRoIs(torch.rand(size, generator=generator), boxes, torch.rand(size))


@each("negatives", NEGATIVES)
@each("positives", ["random", "instance_balanced"])
def test_the_quotas_are_stocks_and_fewer_positives_are_made_up_by_negatives(negatives, positives):
    sampler = RoISampler(positives=positives, negatives=negatives)
    predictions = {"scored": scored()} if sampler.needs_scores else {}
    for limit, expected in ((4, (4, 16)), (10, (6, 14))):
        chosen, weights = sampler.sample(labeled(), num_rois=20, max_positives=limit, **predictions)
        of_positives = (chosen < 6).sum().item()
        assert (of_positives, len(chosen) - of_positives) == expected
        assert len(chosen.unique()) == len(chosen)
        assert (weights is not None) == sampler.needs_scores
        assert weights is None or (weights[:of_positives] == 1).all()
    chosen, _ = sampler.sample(labeled(), num_rois=90, max_positives=22, **predictions)
    assert sorted(chosen.tolist()) == list(range(46))


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_every_draw_trains_the_heads(name, negatives):
    heads, kept, losses, logged = sampled(f"{SAMPLER}.NEGATIVES", negatives, name=name)
    assert all(loss.isfinite() for loss in losses.values())
    for rois in kept[:1] if "Cascade" in name else kept:
        positives = (rois.gt_classes < NUM_CLASSES).sum()
        assert len(rois) <= 24
        assert positives <= int(24 * heads.positive_fraction)
        assert rois.has(WEIGHTS) == (negatives == "score_hlr")
    assert {"roi_head/num_fg_samples", "before_sampling/roi_head/num_fg_samples"} <= logged.keys()


def test_a_random_draw_of_sampled_heads_has_the_quotas_of_stock():
    _, kept, _, logged = sampled()
    _, stock, _, of_stock = sampled(name="FocalROIHeads")
    assert [len(x) for x in kept] == [len(x) for x in stock]
    assert logged["roi_head/num_fg_samples"] == of_stock["roi_head/num_fg_samples"]
    assert logged["roi_head/num_bg_samples"] == of_stock["roi_head/num_bg_samples"]


def test_the_sampler_sees_the_largest_iou_and_the_object_of_each_roi(monkeypatch):
    seen = []
    sample = RoISampler.sample

    def spy(self, rois, **options):
        seen.append(rois)
        return sample(self, rois, **options)

    monkeypatch.setattr(RoISampler, "sample", spy)
    _, proposals, targets = scene = random_scene()
    sampled(f"{SAMPLER}.NEGATIVES", "iou_balanced", scene=scene)
    for rois, of_image, objects in zip(seen, proposals, targets, strict=True):
        if not len(objects):
            assert not rois.max_iou.any()
            assert not rois.is_positive.any()
            continue
        ious = pairwise_iou(objects.gt_boxes, of_image.proposal_boxes)
        expected = torch.cat([ious.amax(0), torch.ones(len(objects))])  # objects are appended
        torch.testing.assert_close(rois.max_iou, expected)
        assert torch.equal(rois.is_positive, expected >= 0.5)
        # an object of its own for each box that the RoIs were matched with
        matched = torch.cat([ious.argmax(0), torch.arange(len(objects))])
        pairs = set(zip(matched.tolist(), rois.objects.tolist(), strict=True))
        assert len(pairs) == len(objects)


def test_score_hlr_weighs_the_negatives_of_the_loss():
    heads, kept, losses, _ = sampled(f"{SAMPLER}.NEGATIVES", "score_hlr", f"{SAMPLER}.HLR_K", 2.0)
    weights = torch.cat([rois.get(WEIGHTS) for rois in kept])
    labels = torch.cat([rois.gt_classes for rois in kept])
    assert (weights[labels < NUM_CLASSES] == 1).all()
    assert len(weights[labels == NUM_CLASSES].unique()) > 10
    features, _, _ = random_scene()
    pooled = heads.box_pooler(
        [features[f] for f in heads.box_in_features], [rois.proposal_boxes for rois in kept]
    )
    logits, _ = heads.box_predictor(heads.box_head(pooled))
    per_roi = SoftmaxCrossEntropyLoss().per_anchor(logits, labels)
    expected = (weights * per_roi).sum() / len(labels)
    torch.testing.assert_close(losses["loss_cls"], expected)
    # the weights keep the value of the loss, so its gradient tells them
    weight = heads.box_predictor.cls_score.weight
    found, wanted, plain = (
        torch.autograd.grad(x, weight, retain_graph=True)[0]
        for x in (losses["loss_cls"], expected, per_roi.mean())
    )
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, plain, rtol=1e-2)


def test_score_hlr_takes_the_box_of_the_best_class_with_either_regression():
    for opts in ((), ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)):
        _, _, losses, _ = sampled(f"{SAMPLER}.NEGATIVES", "score_hlr", *opts)
        assert all(loss.isfinite() for loss in losses.values())


@each("negatives", NEGATIVES)
@each("num_rois", [(0,), (0, 0), (0, 7)])
def test_images_without_rois_train_with_every_part(num_rois, negatives):
    features, proposals, targets = random_scene(num_rois)
    for level in features.values():
        level.requires_grad_()
    _, _, losses, _ = sampled(
        *("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False, f"{SAMPLER}.NEGATIVES", negatives),
        *(f"{KEYS}.REWEIGHT.NAME", "isr_p", f"{KEYS}.CARL.WEIGHT", 1.0),
        scene=(features, proposals, targets),
    )
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_a_seed_determines_the_draw_and_another_seed_draws_others():
    for negatives in NEGATIVES[:2]:
        opts = (f"{SAMPLER}.NEGATIVES", negatives, f"{SAMPLER}.POSITIVES", "instance_balanced")
        first, again = (sampled(*opts)[1] for _ in range(2))
        boxes = [torch.cat([x.proposal_boxes.tensor for x in kept]) for kept in (first, again)]
        assert torch.equal(*boxes)


def test_the_first_pass_changes_no_statistic_of_the_loss():
    heads, *_ = sampled(
        *(f"{SAMPLER}.NEGATIVES", "score_hlr", f"{KEYS}.CLS_LOSS.NAME", "SeesawLoss")
    )
    (layers,) = layers_of(heads)
    assert layers.cls_loss.counts.sum() == sum(
        len(rois) for rois in sampled(f"{SAMPLER}.NEGATIVES", "score_hlr")[1]
    )


def test_weights_of_negatives_require_a_loss_by_name():
    with pytest.raises(ValueError, match=r"SAMPLER\.NEGATIVES = 'score_hlr' requires a loss in"):
        make_heads("SampledROIHeads", f"{SAMPLER}.NEGATIVES", "score_hlr")


@each(
    ("key", "value"),
    [
        ("POSITIVES", "balanced"),
        ("NEGATIVES", "balanced"),
        ("NUM_BINS", 0),
        ("FLOOR_THR", -2.0),
        ("FLOOR_FRACTION", 1.5),
        ("IOU_RANGE", "positives"),
        ("HLR_K", -1.0),
        ("HLR_BIAS", 2.0),
        ("HLR_SCORE_THRESH", -1.0),
        ("HLR_NMS_THRESH", 2.0),
    ],
)
def test_an_illegal_option_names_its_full_key(key, value):
    with pytest.raises(ValueError, match=rf"^{SAMPLER}\.{key} must be "):
        make_heads("SampledROIHeads", f"{SAMPLER}.{key}", value)
