import pytest
import torch
import torchvision.ops
from detectron2 import layers
from detectron2.structures import Boxes, pairwise_iou
from fvcore.nn import giou_loss as fvcore_giou_loss

from focal_plugin.losses import (
    CIoULoss,
    DIoULoss,
    GIoULoss,
    IoULoss,
    box_iou,
    ciou_loss,
    diou_loss,
    elementwise_iou,
    giou_loss,
    iou_loss,
)

from .box_regimes import assert_value_and_gradient_match, box_pair

LOSSES = (iou_loss, giou_loss, diou_loss, ciou_loss)
BOX = [10.0, 20.0, 50.0, 40.0]
NASTY = {
    "identical": BOX,
    "touching": [50.0, 20.0, 90.0, 40.0],
    "touching at a corner": [50.0, 40.0, 90.0, 80.0],
    "disjoint": [500.0, 600.0, 540.0, 620.0],
    "inside": [20.0, 25.0, 30.0, 30.0],
    "without width": [30.0, 20.0, 30.0, 40.0],
    "without area": [30.0, 30.0, 30.0, 30.0],
    "tiny": [30.0, 30.0, 30.0 + 4e-6, 30.0 + 4e-6],
    "huge": [-1e6, -1e6, 1e6, 1e6],
}


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (giou_loss, "generalized_box_iou_loss"),
        (diou_loss, "distance_box_iou_loss"),
        (ciou_loss, "complete_box_iou_loss"),
    ],
)
def test_equals_torchvisions_in_float64(loss, name):
    pred, target = box_pair(num_boxes=300)
    reference = getattr(torchvision.ops, name)(pred.double(), target.double(), reduction="sum")
    assert_value_and_gradient_match(loss(pred, target), reference, pred)


def test_giou_equals_the_one_that_detectron2_uses():
    pred, target = box_pair(num_boxes=300)
    expected = fvcore_giou_loss(pred, target, reduction="sum")
    assert_value_and_gradient_match(giou_loss(pred, target), expected, pred)


@pytest.mark.parametrize("loss", [diou_loss, ciou_loss])
def test_equals_detectron2s_where_it_has_one(loss):
    if not hasattr(layers, loss.__name__):
        pytest.skip(f"this Detectron2 has no {loss.__name__}")
    pred, target = box_pair(num_boxes=300)
    expected = getattr(layers, loss.__name__)(pred, target, reduction="sum")
    assert_value_and_gradient_match(loss(pred, target), expected, pred)


def test_iou_is_detectron2s_of_each_pair():
    pred, target = box_pair(num_boxes=50)
    expected = pairwise_iou(Boxes(pred.detach()), Boxes(target)).diagonal()
    torch.testing.assert_close(elementwise_iou(pred, target), expected)
    assert iou_loss(pred, target).item() == pytest.approx(50 - expected.sum().item())


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient_are_finite_for_every_pair(loss, name):
    for pair in ((NASTY[name], BOX), (BOX, NASTY[name]), (NASTY[name], NASTY[name])):
        pred, target = (torch.tensor([box], requires_grad=True) for box in pair)
        value = loss(pred, target)
        value.backward()
        assert -1e-6 <= value.item() <= 4
        assert pred.grad.isfinite().all()
        assert target.grad.isfinite().all()


def test_ciou_has_a_gradient_for_a_box_without_area_where_others_have_nan():
    pred = torch.tensor([NASTY["without area"]], requires_grad=True)
    target = torch.tensor([BOX])
    theirs = torchvision.ops.complete_box_iou_loss(pred, target, reduction="sum")
    assert torch.autograd.grad(theirs, pred)[0].isnan().any(), "torchvision has fixed its NaN"
    assert torch.autograd.grad(ciou_loss(pred, target), pred)[0].isfinite().all()


@pytest.mark.parametrize("name", ["without width", "without area"])
def test_a_box_without_area_overlaps_nothing_not_even_itself(name):
    box, other = torch.tensor([NASTY[name]]), torch.tensor([BOX])
    assert elementwise_iou(box, other).item() == 0
    assert elementwise_iou(other, box).item() == 0
    assert elementwise_iou(box, box).item() == 0


SWAPPED = {
    "x, y, width, height": [100.0, 120.0, 20.0, 30.0],
    "x only": [50.0, 20.0, 10.0, 40.0],
    "y only": [10.0, 40.0, 50.0, 20.0],
    "one pixel": [10.0, 20.0, 9.0, 40.0],
}


@pytest.mark.parametrize("name", SWAPPED)
def test_swapped_corners_are_an_error_that_shows_the_box(name):
    good, bad = torch.tensor([BOX, BOX]), torch.tensor([BOX, SWAPPED[name]])
    message = r"must be \(x1, y1, x2, y2\) .* row 1: convert \(x, y, width, height\) first"
    modules = [module() for module in (IoULoss, GIoULoss, DIoULoss, CIoULoss)]
    for compare in (elementwise_iou, *LOSSES, *modules, *(x.per_box for x in modules)):
        with pytest.raises(ValueError, match=f"predictions {message}"):
            compare(bad, good)
        with pytest.raises(ValueError, match=f"targets {message}"):
            compare(good, bad)


@pytest.mark.parametrize("name", SWAPPED)
def test_where_they_are_not_checked_they_have_no_overlap(name):
    """The check would stall a GPU."""
    boxes, others = torch.tensor([SWAPPED[name]] * 2), torch.tensor([BOX, SWAPPED[name]])
    for of_boxes in ("iou", "giou", "diou", "ciou"):
        boxes.requires_grad_()
        loss = getattr(box_iou, f"{of_boxes}_loss_of_boxes")(boxes, others)
        assert loss.isfinite().all()
        assert torch.autograd.grad(loss.sum(), boxes)[0].isfinite().all()
    assert (box_iou.iou_loss_of_boxes(boxes, others) == 1).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_box_of_nan_is_no_error_but_shows_in_the_loss(loss):
    assert loss(torch.full((1, 4), torch.nan), torch.tensor([BOX])).isnan()


def test_iou_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 3)
    others = torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]])
    torch.testing.assert_close(elementwise_iou(boxes, others), torch.tensor([1 / 3, 1.0, 0.0]))


@pytest.mark.parametrize("loss", LOSSES)
def test_small_boxes_have_their_true_overlap(loss):
    """An epsilon added to the area, as elsewhere, changes the IoU by a tenth here."""
    box = torch.tensor([[0.0, 0.0, 1e-3, 1e-3]])
    assert elementwise_iou(box, box).item() == pytest.approx(1.0)
    assert loss(box, box).item() == pytest.approx(0.0, abs=1e-6)
    assert torchvision.ops.generalized_box_iou_loss(box, box).item() > 0.05


def test_giou_by_hand():
    """Unit squares one apart: IoU 0, hull 3, union 2."""
    pred, target = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    assert giou_loss(pred, target).item() == pytest.approx(1 + 1 / 3)


def test_diou_by_hand():
    """Unit squares one apart: IoU 0, centers 2 apart, hull 3 by 1."""
    pred, target = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    assert diou_loss(pred, target).item() == pytest.approx(1 + 4 / 10)


def test_with_equal_aspect_ratios_ciou_is_diou():
    pred, target = torch.tensor([[0.0, 0.0, 20.0, 10.0]]), torch.tensor([[5.0, 3.0, 45.0, 23.0]])
    torch.testing.assert_close(ciou_loss(pred, target), diou_loss(pred, target))
    turned = torch.tensor([[5.0, 3.0, 25.0, 43.0]])
    assert ciou_loss(pred, turned) > diou_loss(pred, turned) + 0.01


def test_far_apart_only_plain_iou_has_no_gradient():
    for loss in LOSSES:
        pred = torch.tensor([[0.0, 0.0, 10.0, 10.0]], requires_grad=True)
        loss(pred, torch.tensor([[100.0, 0.0, 110.0, 12.0]])).backward()
        moves_right = pred.grad[0, 0] + pred.grad[0, 2] < 0
        assert moves_right == (loss is not iou_loss)


@pytest.mark.parametrize("module", [IoULoss, GIoULoss, DIoULoss, CIoULoss])
def test_forward_boxes_is_forward(module):
    pred, target = box_pair()
    torch.testing.assert_close(module().forward_boxes(pred, target), module()(pred, target))


@pytest.mark.parametrize("loss", ["iou", "giou", "diou"])
def test_gradcheck(loss):
    pred, target = box_pair(num_boxes=12, dtype=torch.float64)
    of_boxes = getattr(box_iou, f"{loss}_loss_of_boxes")
    assert torch.autograd.gradcheck(lambda boxes: of_boxes(boxes, target), pred)
