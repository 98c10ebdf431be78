import itertools

import pytest
import torch
from torchvision.ops import box_iou

from focal_plugin.mining import OHEMRatioMiner, ohem_keep_mask, top_k_keep_mask

from ..each import each
from .reference import K, mine, random_batch

FAR_APART = torch.arange(100.0).view(-1, 1) * 50 + torch.tensor([0.0, 0.0, 10.0, 10.0])


def one_image(**options):
    return [x[0] for x in random_batch(num_images=1, num_anchors=300, **options)]


@each("neg_pos_ratio", [None, 0.5, 3])
@each("num_keep", [1, 2, 3, 7, 128, 1000])
def test_never_more_than_num_keep(num_keep, neg_pos_ratio):
    loss, labels, boxes = one_image()
    for boxes_or_none in (boxes, None):
        keep = ohem_keep_mask(
            loss, labels, boxes_or_none, num_keep=num_keep, neg_pos_ratio=neg_pos_ratio
        )
        assert 0 < keep.sum() <= num_keep


@each("nms_per_label", [False, True])
@each("nms_thresh", [0.1, 0.5, 0.7])
def test_no_two_kept_anchors_overlap_more_than_the_threshold(nms_thresh, nms_per_label):
    loss, labels, boxes = one_image()
    keep = ohem_keep_mask(loss, labels, boxes, nms_thresh=nms_thresh, nms_per_label=nms_per_label)
    iou = box_iou(boxes[keep], boxes[keep]).fill_diagonal_(0)
    rivals = torch.ones_like(iou, dtype=torch.bool)
    if nms_per_label:
        rivals = labels[keep].unsqueeze(0) == labels[keep].unsqueeze(1)
        assert iou.max() > nms_thresh  # of other labels
    assert iou[rivals].max() <= nms_thresh


def test_a_suppressed_anchor_has_a_neighbor_of_higher_loss():
    loss, labels, boxes = one_image()
    keep = ohem_keep_mask(loss, labels, boxes, num_keep=1000)
    gone = ~keep & (labels != -1)
    assert gone.any()
    iou = box_iou(boxes[gone], boxes[keep])
    harder = loss[keep].unsqueeze(0) > loss[gone].unsqueeze(1)
    assert ((iou > 0.5) & harder).any(dim=1).all()


def test_suppression_is_independent_of_other_images():
    loss, labels, boxes = random_batch(num_images=1)
    twice = [x.repeat(2, *[1] * (x.dim() - 1)) for x in (loss, labels, boxes)]
    for scope in ("image", "batch"):
        keep = mine("OHEMMiner", *twice, scope=scope)
        assert torch.equal(keep[0], keep[1])


def test_without_boxes_nothing_is_suppressed():
    loss, labels, _ = one_image()
    keep = ohem_keep_mask(loss, labels, None, num_keep=20, pre_nms_topk=5)
    assert torch.equal(keep, top_k_keep_mask(loss, labels, num_keep=20))


def test_only_the_hardest_enter_the_suppression():
    loss = torch.arange(100.0)
    keep = ohem_keep_mask(loss, torch.full((100,), K), FAR_APART, pre_nms_topk=10)
    assert keep.nonzero().squeeze(1).tolist() == list(range(90, 100))


@each(
    ("num_pos", "num_keep", "expected"),
    [
        (50, 40, (10, 30)),  # the quotas
        (4, 40, (4, 12)),  # few positives: few negatives
        (50, 43, (10, 30)),  # rounded down
        (90, 80, (20, 10)),  # few negatives: positives do not replace them
        (50, 3, (1, 2)),  # at least one positive
        (50, 1, (1, 0)),
    ],
)
def test_one_to_three_keeps_the_expected_numbers(num_pos, num_keep, expected):
    labels = torch.where(torch.arange(100) < num_pos, 0, K)
    loss = torch.rand(100, generator=torch.Generator().manual_seed(0))
    keep = ohem_keep_mask(loss, labels, FAR_APART, num_keep=num_keep, neg_pos_ratio=3)
    assert ((keep & (labels == 0)).sum(), (keep & (labels == K)).sum()) == expected


@each("scope", ["image", "batch"])
@each("neg_pos_ratio", [0.3, 1.0, 3.0, 7.5])
def test_the_ratio_is_never_exceeded(neg_pos_ratio, scope):
    for seed, num_keep in itertools.product(range(5), (2, 9, 64)):
        loss, labels, boxes = random_batch(seed=seed)
        options = {"num_keep": num_keep, "neg_pos_ratio": neg_pos_ratio, "scope": scope}
        keep = mine("OHEMRatioMiner", loss, labels, boxes, **options)
        num_pos = (keep & (labels < K)).sum(dim=1)
        num_neg = (keep & (labels == K)).sum(dim=1)
        if scope == "batch":
            num_pos, num_neg = num_pos.sum(), num_neg.sum()
        assert (num_pos > 0).all()
        assert (num_neg <= neg_pos_ratio * num_pos).all()


@pytest.mark.parametrize("negatives", [0, 3, 5, 30])
def test_an_image_without_positives_keeps_the_configured_number_of_negatives(negatives):
    loss = torch.arange(100.0)
    labels = torch.full((100,), K)
    options = {"num_keep": 20, "neg_pos_ratio": 3.0, "empty_image_negatives": negatives}
    keep = ohem_keep_mask(loss, labels, FAR_APART, **options)
    expected = min(negatives, 20)
    assert keep.nonzero().squeeze(1).tolist() == list(range(100 - expected, 100))
    module = OHEMRatioMiner(num_classes=K, **options)
    assert torch.equal(module(loss[None], labels[None], FAR_APART[None])[0], keep)


def test_positives_that_are_all_suppressed_count_as_none():
    boxes = FAR_APART.clone()
    boxes[0] = boxes[1]
    labels = torch.full((100,), K)
    labels[0] = 2
    loss = torch.arange(100.0)  # the positive has the lowest loss, and overlaps a negative
    keep = ohem_keep_mask(loss, labels, boxes, neg_pos_ratio=3, empty_image_negatives=5)
    assert keep.nonzero().squeeze(1).tolist() == [95, 96, 97, 98, 99]
    apart = ohem_keep_mask(loss, labels, boxes, neg_pos_ratio=3, nms_per_label=True)
    assert apart.nonzero().squeeze(1).tolist() == [0, 97, 98, 99]


def test_a_batch_without_positives_keeps_that_number_of_negatives_per_image():
    loss, labels, boxes = random_batch()
    labels = labels.clamp(min=0).masked_fill(labels >= 0, K)
    labels[labels != K] = -1
    keep = mine("OHEMRatioMiner", loss, labels, boxes, scope="batch", empty_image_negatives=4)
    assert keep.sum() == 12


@pytest.mark.parametrize(("nms_thresh", "kept"), [(0.5, [5, 5, 1]), (0.7, [9, 9, 5])])
def test_neighbors_of_the_anchor_grid_at_the_thresholds_of_table_1d(nms_thresh, kept):
    """
    Anchors of a 3 x 3 grid at stride 8, one scale at a time, with the largest loss at the center.

    At .5 the neighbors of the center are suppressed at every scale, at .7 at the largest one only.
    """
    offsets = torch.tensor(list(itertools.product((-8.0, 0.0, 8.0), repeat=2)))
    loss = -offsets.norm(dim=1)
    for octave, expected in zip((0, 1, 2), kept, strict=True):
        half = 16 * 2 ** (octave / 3)
        boxes = torch.cat([offsets - half, offsets + half], dim=1)
        keep = ohem_keep_mask(loss, torch.full((9,), K), boxes, nms_thresh=nms_thresh)
        assert keep.sum() == expected
        assert keep[4]
