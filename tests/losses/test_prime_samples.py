"""ISR-P weights and CARL: published values, double loops, and properties."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from focal_plugin.losses import carl_loss, isr_p_weights

from ..each import each

CASES = json.loads((Path(__file__).parent / "prime_samples.json").read_text())
TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-6}
K = 4


def random_positives(seed=0, size=60):
    """Return labels, objects, IoUs and losses of three images, with ties and every label."""
    generator = torch.Generator().manual_seed(seed)
    objects = torch.randint(0, 9, (size,), generator=generator)
    labels = (objects * 7 // 2) % K  # one class for each object
    kind = torch.randint(-1, 6, (size,), generator=generator)
    labels = torch.where(kind == -1, kind, torch.where(kind == 0, K, labels))
    iou = torch.randint(0, 12, (size,), generator=generator).double() / 12
    loss = torch.rand(size, generator=generator, dtype=torch.float64) * 3
    return labels, objects, iou, loss


def weights_by_loops(labels, objects, iou, loss, k, bias):
    labels, objects, iou, loss = (x.tolist() for x in (labels, objects, iou, loss))
    positives = [i for i, label in enumerate(labels) if 0 <= label < K]
    largest = max(Counter(labels[i] for i in positives).values())
    in_object, rank = {}, {}
    for i in positives:
        same = [j for j in positives if (labels[j], objects[j]) == (labels[i], objects[i])]
        in_object[i] = sum((-iou[j], j) < (-iou[i], i) for j in same)
    for i in positives:
        same = [j for j in positives if labels[j] == labels[i]]
        rank[i] = sum((in_object[j], -iou[j], j) < (in_object[i], -iou[i], i) for j in same)
    w = {i: (bias + (1 - bias) * (largest - rank[i]) / largest) ** k for i in positives}
    factor = sum(loss[i] for i in positives) / sum(w[i] * loss[i] for i in positives)
    weights = [w[i] * factor if i in w else 1.0 for i in range(len(labels))]
    return torch.tensor(weights, dtype=torch.float64)


# --- ISR-P


@each("case", CASES["isr_p"])
@each("dtype", [torch.float64, torch.float32])
def test_isr_p_weights_are_the_published_ones(case, dtype):
    inputs = case["inputs"]
    labels, objects = (torch.tensor(inputs[name]) for name in ("labels", "objects"))
    iou, loss = (torch.tensor(inputs[name], dtype=dtype) for name in ("iou", "loss"))
    weights = isr_p_weights(labels, objects, iou, loss, **case["options"])
    expected = torch.tensor(case["expected"]["weights"], dtype=dtype)
    assert weights.dtype == dtype
    torch.testing.assert_close(weights, expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


@each(("k", "bias"), [(2.0, 0.0), (1.0, 0.2), (0.5, 0.7), (0.0, 0.0), (3.0, 1.0)])
def test_isr_p_weights_equal_those_of_a_double_loop(k, bias):
    for seed in range(5):
        inputs = random_positives(seed)
        expected = weights_by_loops(*inputs, k, bias)
        weights = isr_p_weights(*inputs, num_classes=K, k=k, bias=bias)
        torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-12)


def test_isr_p_keeps_the_loss_of_the_positives_and_every_other_weight():
    labels, objects, iou, loss = random_positives()
    weights = isr_p_weights(labels, objects, iou, loss, num_classes=K)
    is_object = (labels >= 0) & (labels < K)
    torch.testing.assert_close((weights * loss)[is_object].sum(), loss[is_object].sum())
    assert (weights[~is_object] == 1).all()
    assert len(set(weights[is_object].tolist())) > 10


def test_isr_p_depends_on_which_positives_share_an_object_not_on_its_number():
    labels, objects, iou, loss = random_positives()
    weights = isr_p_weights(labels, objects, iou, loss, num_classes=K)
    renumbered = isr_p_weights(labels, 1_000_000_007 - objects, iou, loss, num_classes=K)
    assert torch.equal(weights, renumbered)
    one = isr_p_weights(labels, torch.zeros_like(objects), iou, loss, num_classes=K)
    assert not torch.allclose(weights, one)


def test_isr_p_ranks_a_class_of_thousands_by_the_last_digit_of_the_iou():
    """The sum of a rank in the thousands and an IoU in float32 would lose it."""
    size = 5000
    iou = torch.full((size,), 0.7)
    iou[size // 2] = 0.7000001
    objects = torch.arange(size)
    labels = torch.zeros(size, dtype=torch.int64)
    weights = isr_p_weights(labels, objects, iou, torch.ones(size), num_classes=1)
    assert weights.argmax() == size // 2


def test_isr_p_without_positives_or_loss_changes_nothing():
    labels, objects, iou, loss = random_positives()
    nothing = torch.where(labels >= 0, K, labels)
    for x in (labels[:0], nothing):
        weights = isr_p_weights(x, *(y[: len(x)] for y in (objects, iou, loss)), num_classes=K)
        assert torch.equal(weights, torch.ones(len(x)).double())
    assert isr_p_weights(labels, objects, iou, loss * 0, num_classes=K).isfinite().all()
    one = isr_p_weights(*(x[:1] for x in (labels * 0, objects, iou, loss)), num_classes=1)
    assert torch.equal(one, torch.ones(1).double())


def test_isr_p_has_no_gradient_and_changes_no_argument():
    inputs = random_positives()
    copies = [x.clone() for x in inputs]
    inputs[3].requires_grad_()
    assert not isr_p_weights(*inputs, num_classes=K).requires_grad
    assert all(torch.equal(x, y) for x, y in zip(inputs, copies, strict=True))


def test_isr_p_of_half_precision_is_float32_and_any_shape_and_row_outside_is_legal():
    labels, objects, iou, loss = random_positives()
    shape = (3, len(labels) // 3)
    poisoned = torch.where((labels >= 0) & (labels < K), iou, math.nan)
    weights = isr_p_weights(labels, objects, poisoned.half(), loss.half(), num_classes=K)
    assert weights.dtype == torch.float32
    assert weights.isfinite().all()
    inputs = (x.reshape(shape) for x in (labels, objects, iou, loss))
    folded = isr_p_weights(*inputs, num_classes=K)
    flat = isr_p_weights(labels, objects, iou, loss, num_classes=K)
    assert torch.equal(folded, flat.view(shape))


@each(
    ("options", "message"),
    [
        ({"k": -1.0}, "k must be >= 0"),
        ({"bias": 1.5}, "bias must be >= 0 and <= 1"),
        ({"num_classes": 0}, "num_classes must be an integer >= 1"),
        ({"num_classes": 2}, r"labels must be in -1\.\.2"),
    ],
)
def test_isr_p_names_an_illegal_option(options, message):
    with pytest.raises(ValueError, match=message):
        isr_p_weights(*random_positives(), **{"num_classes": K, **options})


def test_isr_p_refuses_tensors_of_different_shapes():
    labels, objects, iou, loss = random_positives()
    with pytest.raises(ValueError, match="must have the same shape"):
        isr_p_weights(labels, objects[1:], iou, loss, num_classes=K)


# --- CARL


def random_boxes(dtype=torch.float64, scale=2.0):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, K, generator=generator).to(dtype) * scale
    labels = torch.randint(-1, K + 1, (40,), generator=generator)
    box_loss = torch.rand(40, generator=generator).to(dtype) * 2
    return logits.requires_grad_(), labels, box_loss.requires_grad_()


@each("case", CASES["carl"])
@each("dtype", [torch.float64, torch.float32])
def test_carl_has_the_published_value_and_gradients(case, dtype):
    inputs, expected = case["inputs"], case["expected"]
    logits, box_loss = (
        torch.tensor(inputs[name], dtype=dtype, requires_grad=True)
        for name in ("logits", "box_loss")
    )
    value = carl_loss(logits, torch.tensor(inputs["labels"]), box_loss, **case["options"])
    value.backward()
    assert value.dtype == dtype
    near = {"rtol": TOLERANCES[dtype], "atol": TOLERANCES[dtype]}
    for ours, theirs in (
        (value, expected["value"]),
        (logits.grad, expected["gradient"]),
        (box_loss.grad, expected["gradient_wrt_box_loss"]),
    ):
        torch.testing.assert_close(ours.detach(), torch.tensor(theirs, dtype=dtype), **near)


@each(("k", "bias"), [(1.0, 0.2), (2.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 0.2)])
def test_carl_equals_its_formula(k, bias):
    logits, labels, box_loss = random_boxes()
    is_object = (labels >= 0) & (labels < K)
    p = logits[is_object].sigmoid().gather(1, labels[is_object, None]).squeeze(1)
    v = (bias + (1 - bias) * p) ** k
    expected = (len(p) * v / v.sum() * box_loss[is_object]).sum() / 7
    loss = carl_loss(logits, labels, box_loss, k=k, bias=bias, avg_factor=7.0)
    gradients = [torch.autograd.grad(x, (logits, box_loss)) for x in (loss, expected)]
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_carl_raises_the_score_of_a_better_box_and_lowers_that_of_a_worse_one():
    logits = torch.zeros(2, 1, requires_grad=True)
    carl_loss(logits, torch.zeros(2).long(), torch.tensor([0.2, 0.8]), avg_factor=2).backward()
    assert logits.grad[0] < 0 < logits.grad[1]
    assert logits.grad.sum().abs() < 1e-7


@each("bias", [0.0, 0.2, 1.0])
@each("k", [0.5, 1.0, 2.0])
def test_carl_is_finite_at_every_score(bias, k):
    for magnitude in (100.0, 1e4, 1e30):
        for signs in ([-1, -1], [-1, 1], [1, 1]):
            logits = (torch.tensor([signs]).T * magnitude).requires_grad_()
            errors = torch.ones(2)
            loss = carl_loss(logits, torch.zeros(2).long(), errors, k=k, bias=bias, avg_factor=1)
            loss.backward()
            torch.testing.assert_close(loss.detach(), torch.tensor(2.0))  # of equal errors
            assert logits.grad.isfinite().all()


def test_carl_without_positives_is_a_differentiable_zero():
    for labels in (torch.full((3,), K), torch.full((3,), -1), torch.zeros(0).long()):
        logits = torch.full((len(labels), K), math.nan, requires_grad=True)
        box_loss = torch.full((len(labels),), math.nan, requires_grad=True)
        loss = carl_loss(logits, labels, box_loss, avg_factor=1.0)
        loss.backward()
        assert loss.shape == ()
        assert loss == 0
        assert (logits.grad == 0).all()
        assert (box_loss.grad == 0).all()


def test_carl_of_half_precision_is_float32_and_a_divisor_may_be_a_tensor():
    logits, labels, box_loss = random_boxes(torch.float16)
    loss = carl_loss(logits, labels, box_loss, avg_factor=torch.tensor(4.0))
    exact = carl_loss(logits.float(), labels, box_loss.float(), avg_factor=4)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact)


@each(
    ("options", "message"),
    [
        ({"k": -1.0}, "k must be >= 0"),
        ({"bias": -0.1}, "bias must be >= 0 and <= 1"),
        ({"avg_factor": 0.0}, "avg_factor must be > 0"),
    ],
)
def test_carl_names_an_illegal_option(options, message):
    with pytest.raises(ValueError, match=message):
        carl_loss(*random_boxes(), **{"avg_factor": 1.0, **options})


def test_carl_refuses_a_box_loss_of_another_shape():
    logits, labels, box_loss = random_boxes()
    with pytest.raises(ValueError, match="box_loss and labels must have the same shape"):
        carl_loss(logits, labels, box_loss[1:], avg_factor=1.0)
