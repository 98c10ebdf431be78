import pytest
import torch

from focal_plugin.mining import SSDMiner, ssd_keep_mask

from .reference import K, mine, random_batch


@pytest.mark.parametrize("scope", ["image", "batch"])
def test_all_positives_are_kept(scope):
    loss, labels, _ = random_batch()
    positives = (labels >= 0) & (labels < K)
    keep = mine("SSDMiner", loss, labels, None, scope=scope, neg_pos_ratio=0.1)
    assert keep[positives].all()


@pytest.mark.parametrize("neg_pos_ratio", [0.5, 1.3, 3.0])
def test_the_ratio_is_that_of_each_image(neg_pos_ratio):
    loss, labels, _ = random_batch(num_anchors=1000)
    labels = torch.where((labels < K) & (torch.arange(1000) % 8 > 0), K, labels)
    num_pos = ((labels >= 0) & (labels < K)).sum(dim=1)
    assert num_pos.unique().numel() > 1
    keep = mine("SSDMiner", loss, labels, None, neg_pos_ratio=neg_pos_ratio)
    num_neg = (keep & (labels == K)).sum(dim=1)
    assert num_neg.tolist() == [int(neg_pos_ratio * n) for n in num_pos.tolist()]


@pytest.mark.parametrize("negatives", [0, 3, 500])
def test_an_image_without_positives_keeps_the_configured_number_of_negatives(negatives):
    loss = torch.arange(100.0)
    labels = torch.full((100,), K)
    keep = ssd_keep_mask(loss, labels, num_classes=K, empty_image_negatives=negatives)
    expected = min(negatives, 100)
    assert keep.nonzero().squeeze(1).tolist() == list(range(100 - expected, 100))


def test_in_a_batch_the_positives_of_one_image_add_negatives_of_another():
    loss = torch.arange(20.0).view(2, 10)
    labels = torch.full((2, 10), K)
    labels[0, :2] = 0
    each = SSDMiner(num_classes=K)(loss, labels)
    assert each.sum(dim=1).tolist() == [8, 3]
    together = SSDMiner(num_classes=K, scope="batch")(loss, labels)
    assert together.sum(dim=1).tolist() == [2, 6]
    empty = SSDMiner(num_classes=K, scope="batch")(loss, torch.full((2, 10), K))
    assert empty.sum(dim=1).tolist() == [0, 6]


def test_a_hard_positive_is_not_a_negative():
    loss = torch.tensor([9.0, 8.0, 7.0, 3.0, 2.0, 1.0, 0.5])
    labels = torch.tensor([0, -1, 1, K, K, K, K])
    keep = ssd_keep_mask(loss, labels, num_classes=K, neg_pos_ratio=1.0)
    assert keep.tolist() == [True, False, True, True, True, False, False]
