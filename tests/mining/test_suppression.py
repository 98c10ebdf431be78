"""Suppression that stops at a quota, against the suppression of all anchors."""

import functools

import pytest
import torch

from focal_plugin.mining import OHEMMiner, OHEMRatioMiner, selection, suppression
from focal_plugin.mining.inputs import check_inputs
from focal_plugin.mining.quota import RatioQuota, TotalQuota
from focal_plugin.mining.selection import positive_mask
from focal_plugin.mining.suppression import Anchors, Suppression
from focal_plugin.ops.extension import has_extension

from ..each import each
from .reference import K, mine, random_batch, reference_mask

NAN = float("nan")
NUM_ANCHORS = 120

QUOTAS = [
    TotalQuota(1),
    TotalQuota(9),
    TotalQuota(500),  # more than there are survivors
    RatioQuota(8, 3.0, 3),
    RatioQuota(30, 0.4, 3),
    RatioQuota(300, 3.0, 3),
]


@pytest.fixture(
    params=[
        pytest.param(
            "cpp",
            marks=pytest.mark.skipif(not has_extension(), reason="the C++ extension is not built"),
        ),
        "eager",
    ]
)
def impl(request, monkeypatch):
    """Let mining use an implementation of its operations, and compare a few anchors at a time."""
    descending = functools.partial(suppression.descending, impl=request.param)
    suppress = functools.partial(suppression.suppress, impl=request.param)
    monkeypatch.setattr(suppression, "suppress", suppress)
    for module in (selection, suppression):
        monkeypatch.setattr(module, "descending", descending)
    monkeypatch.setattr(suppression, "FIRST_BLOCK", 1)
    monkeypatch.setattr(suppression, "LARGEST_BLOCK", 31)
    return request.param


def anchors_of(loss, labels, boxes, seen=None):
    def boxes_of(image, anchor):
        if seen is not None:
            seen.append((image, anchor))
        return boxes[image, anchor]

    return Anchors(
        loss, check_inputs(loss, labels, boxes), positive_mask(labels, num_classes=K), boxes_of
    )


def filled(anchors, candidates, quota, *, per_batch):
    masks = anchors.loss, candidates, anchors.positives
    if per_batch:
        return quota.fill(*(x.flatten() for x in masks)).view_as(candidates)
    return torch.stack([quota.fill(*of_image) for of_image in zip(*masks, strict=True)])


@each("per_batch", [False, True])
@each("nms_per_label", [False, True])
@each("nms_thresh", [0.2, 0.7])
@each("ties", [False, True])
def test_what_is_kept_does_not_depend_on_where_it_stops(
    ties, nms_thresh, nms_per_label, per_batch, impl
):
    anchors = anchors_of(*random_batch(num_images=2, seed=1, ties=ties))
    rule = Suppression(nms_thresh, 0, nms_per_label)
    survivors = rule.survivors(anchors, None, per_batch=per_batch)
    for quota in QUOTAS:
        first = rule.survivors(anchors, quota, per_batch=per_batch)
        assert not (first & ~survivors).any()
        expected = filled(anchors, survivors, quota, per_batch=per_batch)
        assert torch.equal(filled(anchors, first, quota, per_batch=per_batch), expected), quota


@each("scope", ["image", "batch"])
@each("name", ["OHEMMiner", "OHEMRatioMiner"])
@each("kind", ["ties", "NaN", "bfloat16", "no area", "no object", "one box"])
def test_the_selection_of_unusual_anchors_is_that_of_a_loop(kind, name, scope, impl):
    loss, labels, boxes = random_batch(seed=2, ties=kind in ("ties", "NaN"))
    expected_loss = loss
    if kind == "NaN":
        loss[:, ::17] = NAN
        expected_loss = loss.nan_to_num(nan=torch.inf)
    elif kind == "bfloat16":
        loss = loss.bfloat16()
        expected_loss = loss.float()
    elif kind == "no area":
        boxes[:, ::2, 2] = boxes[:, ::2, 0]
        boxes[:, ::4, 3] = boxes[:, ::4, 1]
    elif kind == "no object":
        labels[1] = labels[1].masked_fill(labels[1] >= 0, K)
    elif kind == "one box":
        boxes[:] = boxes[0, 0]
    expected = reference_mask(
        name, expected_loss, labels, boxes, num_keep=12, scope=scope, nms_thresh=0.3
    )
    keep = mine(name, loss, labels, boxes, num_keep=12, scope=scope, nms_thresh=0.3)
    assert torch.equal(keep, expected)


def test_only_the_compared_boxes_are_requested(impl):
    loss, labels, boxes = random_batch()
    seen = []
    anchors = anchors_of(loss, labels, boxes, seen)
    Suppression(1.0, 0, False).survivors(anchors, TotalQuota(7), per_batch=False)
    image, anchor = (torch.cat(x) for x in zip(*seen, strict=True))
    hardest = loss.masked_fill(labels == -1, -1).topk(7, dim=1).indices.sort(dim=1).values
    assert torch.equal(image, torch.arange(3).repeat_interleave(7))
    assert torch.equal(anchor.view(3, 7).sort(dim=1).values, hardest)


def test_an_image_that_is_decided_requests_no_further_box(impl):
    loss, labels, boxes = random_batch(num_images=2)
    labels = labels.clamp(min=0)
    boxes[1] = boxes[1, 0]  # one survivor: its second can only be found missing at the end
    seen = []
    anchors = anchors_of(loss, labels, boxes, seen)
    Suppression(0.99, 0, False).survivors(anchors, TotalQuota(2), per_batch=False)
    image = torch.cat([x for x, _ in seen])
    assert [(image == n).sum() for n in (0, 1)] == [2, NUM_ANCHORS]


def test_the_ratio_looks_for_further_positives_until_the_last(impl):
    """All negatives that 1:3 needs come first, but the positives decide how many it needs."""
    boxes = torch.arange(1.0 * NUM_ANCHORS).view(1, -1, 1) * 50 + torch.tensor([0.0, 0, 10, 10])
    loss = torch.arange(NUM_ANCHORS, 0, -1.0).unsqueeze(0)
    labels = torch.full((1, NUM_ANCHORS), K)
    labels[0, [50, 90]] = 2
    seen = []
    anchors = anchors_of(loss, labels, boxes, seen)
    quota = RatioQuota(40, 3.0, 3)
    survivors = Suppression(0.5, 0, False).survivors(anchors, quota, per_batch=False)
    keep = filled(anchors, survivors, quota, per_batch=False)
    assert keep[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 50, 90]
    assert 90 in torch.cat([anchor for _, anchor in seen])
    assert len(torch.cat([anchor for _, anchor in seen])) < NUM_ANCHORS


def test_only_the_hardest_of_each_image_enter(impl):
    anchors = anchors_of(*random_batch())
    for per_batch in (False, True):
        survivors = Suppression(1.0, 20, False).survivors(anchors, None, per_batch=per_batch)
        expected = [
            selection.highest(loss, labels != -1, 20)
            for loss, labels in zip(anchors.loss, anchors.labels, strict=True)
        ]
        assert torch.equal(survivors, torch.stack(expected))


class EasiestSurvivor(OHEMMiner):
    """Miner that keeps the survivor of lowest loss, with a selection and no quota of its own."""

    def select(self, loss, candidates, positives, *, num_images):
        return selection.highest(-loss, candidates, 1)


class MoreSurvivors(OHEMMiner):
    """Miner that keeps twice as many survivors, by a quota of its own."""

    def quota(self, num_images):
        return TotalQuota(2 * self.num_keep * num_images)


class HardAndEasy(OHEMRatioMiner):
    """Miner that also keeps all survivors of low loss."""

    def select(self, loss, candidates, positives, *, num_images):
        keep = super().select(loss, candidates, positives, num_images=num_images)
        return keep | (candidates & (loss < 0.1))


@each("scope", ["image", "batch"])
def test_a_subclass_selects_among_all_survivors(scope, impl):
    batch = random_batch()
    options = {"num_classes": K, "num_keep": 8, "nms_thresh": 0.3, "scope": scope}
    survivors = reference_mask("OHEMMiner", *batch, num_keep=NUM_ANCHORS, nms_thresh=0.3)
    easiest = batch[0].masked_fill(~survivors, torch.inf)
    smallest = easiest.min() if scope == "batch" else easiest.amin(dim=1, keepdim=True)
    assert torch.equal(EasiestSurvivor(**options)(*batch), easiest == smallest)
    twice = reference_mask("OHEMMiner", *batch, num_keep=16, nms_thresh=0.3, scope=scope)
    assert torch.equal(MoreSurvivors(**options)(*batch), twice)
    hard = reference_mask("OHEMRatioMiner", *batch, num_keep=8, nms_thresh=0.3, scope=scope)
    assert torch.equal(HardAndEasy(**options)(*batch), hard | (easiest < 0.1))
