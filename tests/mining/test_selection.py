import torch
from torchvision.ops import batched_nms

from focal_plugin.mining.selection import highest, survivors_of_nms

from ..each import each


@each("count", [0, 1, 3, 50, 99, 100, 101, 10_000])
def test_highest_is_the_head_of_a_stable_sort(count):
    generator = torch.Generator().manual_seed(count)
    loss = torch.randint(0, 5, (100,), generator=generator).float()
    keep = highest(loss, torch.ones(100, dtype=torch.bool), count)
    expected = loss.argsort(descending=True, stable=True)[:count].sort().values
    assert torch.equal(keep.nonzero().squeeze(1), expected)


def test_candidates_at_minus_infinity_come_before_other_anchors():
    loss = torch.full((6,), -float("inf"))
    candidates = torch.tensor([False, False, True, True, False, True])
    keep = highest(loss, candidates, 2)
    assert keep.nonzero().squeeze(1).tolist() == [2, 3]


def test_labels_stay_apart_at_negative_coordinates():
    """torchvision shifts each label by the largest coordinate, so that these two boxes overlap."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [-11.0, -11.0, -1.0, -1.0]])
    labels, loss = torch.tensor([0, 1]), torch.tensor([2.0, 1.0])
    naive = batched_nms(boxes, loss, labels, 0.5)
    assert len(naive) == 1, "torchvision has fixed its shift"
    options = {"nms_thresh": 0.5, "pre_nms_topk": 2, "nms_per_label": True}
    assert survivors_of_nms(loss, labels, boxes.__getitem__, **options).all()
