import pytest
import torch
from torchvision.ops import box_iou as iou_of_torchvision

from focal_plugin.ops import box_pairs
from focal_plugin.ops.box_pairs import box_iou, object_chunks, smallest

from ..each import each


def test_the_iou_of_all_pairs_is_torchvisions():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 40, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + torch.rand(2, 40, 2, generator=generator) * 30], dim=2)
    iou = box_iou(boxes[0].unsqueeze(1), boxes[1])
    torch.testing.assert_close(iou, iou_of_torchvision(boxes[0], boxes[1]))
    assert (iou > 0).any()


def test_boxes_without_area_and_with_a_nan_have_no_overlap():
    boxes = torch.tensor([[3.0, 3.0, 3.0, 3.0], [0.0, 0.0, float("nan"), 9.0]])
    assert not box_iou(boxes.unsqueeze(1), torch.cat([boxes, torch.ones(1, 4) * 3])).any()


@each("k", [0, 1, 4, 12, 30])
def test_the_smallest_values_are_in_the_order_of_value_and_index(k):
    generator = torch.Generator().manual_seed(k)
    values = torch.randint(0, 5, (7, 12), generator=generator).float()
    values[0, 3:6] = float("nan")
    values[1, 2], values[1, 5] = float("inf"), -float("inf")
    keys = values.nan_to_num(nan=float("inf")).tolist()
    expected = [sorted(range(12), key=lambda i, row=row: (row[i], i))[:k] for row in keys]
    assert smallest(values, k).tolist() == expected


@pytest.mark.parametrize(("objects", "anchors"), [(0, 5), (7, 0), (7, 3), (7, 1000)])
def test_chunks_cover_all_objects_with_a_bounded_number_of_pairs(objects, anchors, monkeypatch):
    monkeypatch.setattr(box_pairs, "PAIRS_PER_CHUNK", 10)
    chunks = [range(objects)[chunk] for chunk in object_chunks(objects, anchors)]
    assert [i for chunk in chunks for i in chunk] == list(range(objects))
    assert all(len(chunk) == 1 or len(chunk) * anchors <= 10 for chunk in chunks)
