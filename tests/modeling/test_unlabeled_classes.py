"""Partly labeled images: the loss is that of the labeled classes only."""

import inspect
import re

import pytest
import torch
from detectron2.structures import Boxes, Instances

from focal_plugin import get_cfg
from focal_plugin.data.loading.labeled_classes import LabeledClasses
from focal_plugin.engine.partial_labels import check_partial_labels
from focal_plugin.losses import CLS_LOSS_REGISTRY, SigmoidFocalLoss, SigmoidFocalStarLoss
from focal_plugin.modeling.unlabeled_classes import check_leaves_out, leave_out_unlabeled

from ..each import each
from ..registrations import DENSE_CLS_LOSSES
from .toy import NUM_CLASSES, gradients_of, losses_of, tiny_model, toy_batch

K = 5
LABELED = [0, 2, 4]
CLASSES = dict(CLS_LOSS_REGISTRY)
COUNTS = {"DRLoss", "GHMLoss"}
"""Losses in which a negative of probability 0 has a part."""
LEAVES_OUT = [x for x in DENSE_CLS_LOSSES if not CLASSES[x].softmax and x not in COUNTS]
LEVELS = [(4, 3), (2, 2)]
"""Height and width of each level; there are two anchors per location."""


def make(name, classes):
    """Return a loss of some of the K classes, with the options of these."""
    # equal numbers, because weights have a mean of 1 over the classes
    options = {"num_classes": len(classes), "samples_per_class": [10 for _ in classes]}
    accepted = inspect.signature(CLASSES[name].__init__).parameters
    return CLASSES[name](**{k: v for k, v in options.items() if k in accepted}).train()


def instances(labeled=None):
    found = Instances((8, 8), gt_boxes=Boxes(torch.zeros(0, 4)))
    if labeled is not None:
        found.labeled_classes = LabeledClasses(torch.tensor(labeled, dtype=torch.int64), 0)
    return found


def random_levels(dtype=torch.float32):
    """Return logits of two images, and labels of every kind that the first image may have."""
    generator = torch.Generator().manual_seed(3)
    logits = [4 * torch.randn(2, *size, 2, K, generator=generator) for size in LEVELS]
    num = sum(x[0, ..., 0].numel() for x in logits)
    of_first = torch.tensor([*LABELED, -1, K])[torch.arange(num) % 5]
    return [x.to(dtype).requires_grad_() for x in logits], [of_first, torch.arange(num) % K]


def loss_of(loss, logits, labels):
    """Return the loss over the levels, as a detector computes it."""
    sizes = [x[0, ..., 0].numel() for x in logits]
    levels = [y.view(x.shape[:-1]) for x, y in zip(logits, labels.split(sizes, 1), strict=True)]
    if not loss.decomposes:
        logits, levels = [torch.cat([x.flatten(1, -2) for x in logits], 1)], [labels]
    quality = [torch.full(y.shape, 0.8) for y in levels] if loss.needs_quality else None
    return loss.of_levels(logits, levels, quality=quality)


@each("name", LEAVES_OUT)
def test_loss_and_gradient_are_those_of_the_labeled_columns_alone(name):
    logits, labels = random_levels()
    masked = leave_out_unlabeled(logits, labels, [instances(LABELED), instances()])
    first = [x[:1] for x in masked], labels[0].unsqueeze(0)
    value = loss_of(make(name, range(K)), *first)
    value.backward()
    columns = [x.detach()[:1, ..., LABELED].contiguous().requires_grad_() for x in logits]
    # a label k of LABELED becomes its column, and K the number of columns
    column_of = torch.tensor([0, -9, 1, -9, 2, 3, -1])
    expected = loss_of(make(name, LABELED), columns, column_of[labels[0]].unsqueeze(0))
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    expected.backward()
    for level, column in zip(logits, columns, strict=True):
        assert not level.grad[:1, ..., [1, 3]].any()
        assert not level.grad[1:].any()
        got = level.grad[:1, ..., LABELED]
        torch.testing.assert_close(got, column.grad, rtol=1e-5, atol=1e-7)


@each("name", LEAVES_OUT)
def test_what_a_loss_accumulates_leaves_out_the_same(name):
    """The gradients of a class that is left out are 0 in the state of a loss, too."""
    if not CLASSES[name].stateful:
        return
    logits, labels = random_levels()
    masked = leave_out_unlabeled(logits, labels, [instances(LABELED)] * 2)
    whole, some = make(name, range(K)), make(name, LABELED)
    background = torch.full((1, labels[0].numel()), K)
    loss_of(whole, [x[:1] for x in masked], background)
    columns = [x[:1, ..., LABELED].contiguous() for x in logits]
    loss_of(some, columns, background - 2)
    state = dict(whole.named_buffers())
    for key, value in some.named_buffers():
        kept = state[key] if state[key].shape == value.shape else state[key][..., LABELED]
        torch.testing.assert_close(kept, value, rtol=1e-5, atol=1e-6)


def test_an_annotated_object_is_trained_even_if_its_class_is_not_labeled_completely():
    logits, labels = random_levels()
    labels[0][:] = K
    labels[0][0] = 1
    masked = leave_out_unlabeled(logits, labels, [instances([0]), instances()])
    assert masked[0][0, 0, 0, 0, 1] == logits[0][0, 0, 0, 0, 1]
    assert (masked[0][0, ..., 1] == -1e4).sum() == masked[0][0, ..., 1].numel() - 1
    assert torch.equal(masked[0][1], logits[0][1])


def test_without_a_partly_labeled_image_the_logits_are_the_same_tensors():
    logits, labels = random_levels()
    assert leave_out_unlabeled(logits, labels, [instances()] * 2) is logits


@each("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_holds_the_constant(dtype):
    logits, labels = random_levels(dtype)
    background = torch.full_like(torch.stack(labels), K)
    masked = leave_out_unlabeled(logits, list(background), [instances([]), instances([])])
    assert loss_of(SigmoidFocalLoss(), masked, background) < 1e-20


def test_losses_of_independent_classes_can_leave_out_a_class():
    for name in LEAVES_OUT:
        check_leaves_out(make(name, range(K)), K)


@each(
    ("loss", "message"),
    [
        (CLASSES["SoftmaxFocalLoss"](), "SoftmaxFocalLoss compares all classes"),
        (CLASSES["SoftmaxCrossEntropyLoss"](), "SoftmaxCrossEntropyLoss compares all classes"),
        (CLASSES["DRLoss"](), "DRLoss counts a negative of probability 0"),
        (CLASSES["GHMLoss"](), "GHMLoss counts a negative of probability 0"),
        (SigmoidFocalLoss(gamma=0, label_smoothing=0.1), "SigmoidFocalLoss counts a negative"),
        (SigmoidFocalStarLoss(gamma=1e-4), "SigmoidFocalStarLoss counts a negative"),
    ],
)
def test_other_losses_are_refused(loss, message):
    with pytest.raises(ValueError, match=f"{message}.*; choose a loss"):
        check_leaves_out(loss, K)


def test_the_check_changes_no_state():
    loss = make("EqualizationLossV2", range(K))
    before = {key: value.clone() for key, value in loss.named_buffers()}
    check_leaves_out(loss, K)
    assert loss.training
    assert all(torch.equal(before[key], value) for key, value in loss.named_buffers())


@pytest.fixture(scope="module")
def model():
    return tiny_model("MODEL.FOCAL.NORMALIZER.NAME", "fixed")


def batch_with(*labeled):
    batch = toy_batch()
    for image, classes in zip(batch, labeled, strict=True):
        if classes is not None:
            found = image["instances"]
            field = LabeledClasses(torch.tensor(classes, dtype=torch.int64), len(found))
            found.labeled_classes = field
    return batch


def test_a_detector_with_every_class_labeled_is_as_without_the_field(model):
    everything = list(range(NUM_CLASSES))
    expected = losses_of(model, toy_batch())
    assert losses_of(model, batch_with(everything, None, everything)) == expected


def test_an_image_without_objects_that_is_labeled_with_one_class_trains_only_this_one(model):
    batch = [batch_with(None, [2], None)[1]]
    losses, gradients = gradients_of(model, batch)
    assert losses["loss_cls"] > 0
    by_class = gradients["head.cls_score.bias"].view(-1, NUM_CLASSES)
    assert by_class[:, 2].all()
    assert not by_class[:, [k for k in range(NUM_CLASSES) if k != 2]].any()


def test_partial_labels_are_refused_for_other_detectors_and_losses():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "FocalRetinaNet"
    check_partial_labels(cfg, 3)
    remedy = re.escape("; or set MODEL.FOCAL.ANCHOR_LABELS.UNLABELED background")
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = "SoftmaxFocalLoss"
    with pytest.raises(ValueError, match=f"SoftmaxFocalLoss compares all classes.*{remedy}"):
        check_partial_labels(cfg, 3)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    with pytest.raises(ValueError, match=f"^3 training images state .* only FocalRetina.*{remedy}"):
        check_partial_labels(cfg, 3)
    check_partial_labels(cfg, 0)
