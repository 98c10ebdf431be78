"""Test-time augmentation: where the boxes go, what is merged, and what is refused."""

import pytest
import torch
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA
from detectron2.structures import Boxes, Instances
from torch import nn

from focal_plugin.modeling import build_tta, check_tta
from focal_plugin.modeling.test_time_augmentation import RetinaNetWithTTA

from ..each import each
from .pairs import CASCADE, MASK, RCNN, RETINANET, SMALL, make_model
from .toy import narrow_cfg

ENABLED = ("TEST.AUG.ENABLED", True)


class BrightRectangle(nn.Module):
    """Detector of class 1 whose single box encloses the bright pixels, in the original image."""

    def __init__(self, scores=(0.5,)):
        super().__init__()
        self.scores = iter(scores * 100)
        self.batch_sizes = []

    def forward(self, inputs):
        self.batch_sizes.append(len(inputs))
        return [{"instances": self.detect(x)} for x in inputs]

    def detect(self, x):
        _, height, width = x["image"].shape
        rows, columns = (x["image"][0] > 127).nonzero(as_tuple=True)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        scale = torch.tensor([x["width"] / width, x["height"] / height] * 2)
        return Instances(
            (x["height"], x["width"]),
            pred_boxes=Boxes(torch.tensor([box]) * scale),
            scores=torch.tensor([next(self.scores)]),
            pred_classes=torch.tensor([1]),
        )


def picture(size=(64, 96), box=(10, 8, 40, 56)):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[:, box[1] : box[3], box[0] : box[2]] = 255
    return image


def with_tta(model, sizes=(64,), *, flip=False, nms_thresh=0.5, max_detections=100):
    augment = DatasetMapperTTA(min_sizes=sizes, max_size=1000, flip=flip)
    return RetinaNetWithTTA(model, augment, nms_thresh=nms_thresh, max_detections=max_detections)


@each("sizes, flip", [((64,), True), ((128,), False), ((32, 64, 128), True), ((48, 96, 200), True)])
@each("scale", [(1, 1), (2, 2), (0.5, 0.5), (3, 0.5)])  # of the original image, height and width
def test_the_boxes_of_all_augmented_images_are_those_of_the_original(sizes, flip, scale):
    original = {"height": int(64 * scale[0]), "width": int(96 * scale[1])}
    detector = with_tta(BrightRectangle(), sizes, flip=flip, nms_thresh=1.0)
    (output,) = detector([{"image": picture(), **original}])
    found = output["instances"]
    assert found.image_size == (original["height"], original["width"])
    assert len(found) == len(sizes) * (1 + flip)
    expected = torch.tensor([10.0, 8, 40, 56]) * torch.tensor([scale[1], scale[0]] * 2)
    pixel = 96 / min(sizes) * max(scale)
    assert (found.pred_boxes.tensor - expected).abs().max() < pixel
    assert found.pred_classes.tolist() == [1] * len(found)


def test_boxes_that_overlap_become_the_one_of_the_highest_score():
    detector = with_tta(BrightRectangle(scores=(0.3, 0.9, 0.6)), (64, 128, 256))
    (output,) = detector([{"image": picture(), "height": 64, "width": 96}])
    assert output["instances"].scores.tolist() == pytest.approx([0.9])


def test_the_best_detections_are_kept():
    detector = with_tta(
        BrightRectangle(scores=(0.3, 0.9, 0.6)), (64, 128, 256), nms_thresh=1.0, max_detections=2
    )
    (output,) = detector([{"image": picture()}])
    assert output["instances"].scores.tolist() == pytest.approx([0.9, 0.6])
    assert output["instances"].image_size == (64, 96)


def test_the_detector_receives_three_images_at_once():
    detector = with_tta(BrightRectangle(), (32, 64, 96, 128), flip=True)
    detector([{"image": picture()}, {"image": picture()}])
    assert detector.model.batch_sizes == [3, 3, 2] * 2


KINDS = {
    "retinanet": (RETINANET, ()),
    "faster": (RCNN, ()),
    "mask": (RCNN, MASK),
    "cascade": (RCNN, CASCADE),
    "stock": (RETINANET, ("MODEL.META_ARCHITECTURE", "RetinaNet")),
}


def detect(kind, image, *opts):
    file, more = KINDS[kind]
    cfg = narrow_cfg(file, *SMALL, *ENABLED, *more, *opts)
    check_tta(cfg)
    model = make_model(file, *ENABLED, *more, *opts)
    detector = build_tta(cfg, model)
    assert not detector.training
    assert isinstance(detector, GeneralizedRCNNWithTTA) is (file == RCNN)
    with torch.no_grad():
        inputs = {"image": image, "height": 48, "width": 64}
        return model([dict(inputs)])[0]["instances"], detector([inputs])[0]["instances"]


def noise():
    return torch.randint(
        0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@each("kind", KINDS)
def test_the_size_of_the_image_alone_changes_nothing(kind):
    sizes = ("TEST.AUG.MIN_SIZES", (64,), "TEST.AUG.FLIP", False)
    # RetinaNet suppresses boxes before it clips them, so that a second suppression finds more
    nms = ("MODEL.RETINANET.NMS_THRESH_TEST", 1.0)
    plain, augmented = detect(kind, noise(), *sizes, *nms)
    assert len(plain) == len(augmented) > 0
    for field in ("scores", "pred_classes"):
        assert torch.equal(plain.get(field), augmented.get(field)), field
    torch.testing.assert_close(
        plain.pred_boxes.tensor, augmented.pred_boxes.tensor, atol=1e-3, rtol=0
    )
    assert augmented.has("pred_masks") is (kind == "mask")
    if kind == "mask":
        assert (plain.pred_masks ^ augmented.pred_masks).float().mean() < 0.01


@each("kind", ["retinanet", "faster"])
def test_the_detections_of_a_mirror_image_are_mirrored(kind):
    sizes = ("TEST.AUG.MIN_SIZES", (64,), "TEST.AUG.FLIP", True)
    _, found = detect(kind, noise(), *sizes)
    _, of_mirror = detect(kind, noise().flip(2), *sizes)
    boxes = of_mirror.pred_boxes.tensor
    mirrored = torch.stack([64 - boxes[:, 2], boxes[:, 1], 64 - boxes[:, 0], boxes[:, 3]], dim=1)
    assert len(found) == len(of_mirror)
    torch.testing.assert_close(found.scores, of_mirror.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.pred_boxes.tensor, mirrored, atol=1e-2, rtol=0)


@each("kind", ["retinanet", "mask"])
def test_an_image_without_detections_has_none(kind):
    never = ("MODEL.RETINANET.SCORE_THRESH_TEST", 0.99, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.99)
    plain, augmented = detect(kind, noise(), "TEST.AUG.MIN_SIZES", (64, 96), *never)
    assert len(plain) == len(augmented) == 0


@each(
    "opts, message",
    [
        (("MODEL.KEYPOINT_ON", True), "does not support MODEL.KEYPOINT_ON"),
        (("MODEL.LOAD_PROPOSALS", True), "does not support MODEL.LOAD_PROPOSALS"),
        (("MODEL.META_ARCHITECTURE", "ProposalNetwork"), "META_ARCHITECTURE ProposalNetwork"),
        (("MODEL.META_ARCHITECTURE", "PanopticFPN"), "META_ARCHITECTURE PanopticFPN"),
        (("MODEL.META_ARCHITECTURE", "SemanticSegmentor"), "META_ARCHITECTURE SemanticSegmentor"),
        (("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"), "PROPOSAL_GENERATOR.NAME RRPN"),
        (("TEST.AUG.MIN_SIZES", ()), "TEST.AUG.MIN_SIZES must have a size"),
        (("TEST.AUG.MIN_SIZES", (64, 0)), "TEST.AUG.MIN_SIZES must be > 0, got 0"),
        (("TEST.AUG.MAX_SIZE", -1), "TEST.AUG.MAX_SIZE must be > 0, got -1"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(opts, message):
    with pytest.raises(ValueError, match=message):
        check_tta(narrow_cfg(RCNN, *ENABLED, *opts))
    check_tta(narrow_cfg(RCNN, *opts))  # not enabled
