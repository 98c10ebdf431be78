"""
Random inputs for every operator, compared with float64.

The shapes have dimensions of 0 and 1, and the tensors have any strides. `make sanitize` runs this
file with the extension compiled for AddressSanitizer and UndefinedBehaviorSanitizer.
"""

import dataclasses
import functools
import random

import pytest
import torch

from focal_plugin.losses.sigmoid_focal import Focal
from focal_plugin.ops import count_norms, dense_loss, dense_loss_per_anchor
from focal_plugin.ops.dense_loss import MODULES
from focal_plugin.ops.extension import has_extension
from focal_plugin.ops.levels import Levels
from focal_plugin.ops.match_anchors import LOW_QUALITY, match_anchors
from focal_plugin.ops.ranking import Ranking

from .test_dense_loss import OF_CLASSES, TERMS, reference, reference_slopes

needs_extension = pytest.mark.skipif(not has_extension(), reason="the C++ extension is not built")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
MARKS = {"cpp": needs_extension, "triton": needs_gpu, "eager": ()}
every_implementation = pytest.mark.parametrize(
    "impl", [pytest.param(name, marks=MARKS[name]) for name in MODULES]
)
every_seed = pytest.mark.parametrize("seed", range(4))
CASES = 20
"""Number of random inputs for each operator, implementation and seed."""

UNIT = 1024  # anchors, of csrc/dense_loss.h
CHUNK = 256  # anchors, of csrc/match_anchors.cpp
SIZES = [0, 1, 1, 2, 3, 5, 7]
CLASSES = [0, 1, 1, 2, 5, 17, 33]
DTYPES = {
    "cpp": [torch.float32, torch.bfloat16],
    "triton": [torch.float32, torch.bfloat16, torch.float16],
    "eager": [torch.float32, torch.bfloat16, torch.float16, torch.float64],
}
TOLERANCE = {
    torch.float32: {"rtol": 5e-6, "atol": 5e-6},
    torch.float64: {"rtol": 5e-6, "atol": 5e-6},
    torch.bfloat16: {"rtol": 2**-7, "atol": 5e-6},
    torch.float16: {"rtol": 2**-10, "atol": 5e-6},
}


@pytest.fixture(autouse=True)
def _restored_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def device_of(impl):
    return "cuda" if impl == "triton" and torch.cuda.is_available() else "cpu"


class Random(random.Random):
    """Source of shapes and tensors."""

    def __init__(self, *seed):
        super().__init__(repr(seed))
        self.torch = torch.Generator().manual_seed(self.getrandbits(32))

    def anchors(self):
        """Return a shape (...) of up to four dimensions, or one as long as a unit of work."""
        if self.random() < 0.1:
            return (self.choice([1, 2]), self.choice([UNIT, 2 * UNIT]) + self.choice([-1, 0, 1]))
        return tuple(self.choice(SIZES) for _ in range(self.randint(0, 4)))

    def strided(self, tensor):
        """Return the same values with other strides: transposed, sliced, or with an offset."""
        order = self.sample(range(tensor.dim()), tensor.dim())
        moved = (
            tensor.permute(order).contiguous().permute([order.index(i) for i in range(len(order))])
        )
        padding = [self.choice([0, 0, 1, 3]) for _ in tensor.shape]
        if self.random() < 0.5 or not tensor.numel():
            return moved
        wide = moved.new_zeros([n + p for n, p in zip(tensor.shape, padding, strict=True)])
        view = wide[tuple(slice(p, None) for p in padding)]
        return view.copy_(moved)

    def expanded(self, tensor):
        """Return a tensor that repeats one entry of a dimension in memory."""
        if not tensor.dim() or not tensor.numel():
            return tensor
        d = self.randrange(tensor.dim())
        return tensor.narrow(d, 0, 1).expand(tensor.shape)

    def layout(self, tensor):
        return self.choice([self.strided, self.strided, self.expanded, torch.Tensor.contiguous])(
            tensor
        )


def terms_for(choose, num_classes):
    """Return the terms of some loss, with weights for these classes."""
    names = TERMS.keys() - OF_CLASSES.keys() - {"alpha for each class"}
    terms = TERMS[choose.choice(sorted(names))]
    weights = torch.rand(4, num_classes + 1, generator=choose.torch)
    options = {
        "positive": Focal(weights[0, 1:] * 9),
        "negative": Focal(weights[1, 1:] * 9),
        "positive_weight": weights[2, 1:],
        "negative_weight": weights[3, 1:],
        "spared": weights[2, 1:] < 0.3,
        "anchor_weight": weights[3],
    }
    chosen = {name: value for name, value in options.items() if choose.random() < 0.3}
    return dataclasses.replace(terms, **chosen)


@every_seed
@every_implementation
def test_dense_loss_equals_float64(impl, seed):
    run(check_dense_loss, impl, seed, CASES)


def run(check, impl, seed, cases):
    for case in range(cases):
        check(Random(check.__name__, seed, case), impl)


@pytest.mark.parametrize("check", ["check_dense_loss", "check_match_anchors"])
def test_the_interpreter_of_triton_agrees(check, interpreter):
    """The interpreter of Triton is slow, so there are few cases."""
    interpreter(run, globals()[check], "triton", 0, 5)


def check_dense_loss(choose, impl):
    anchors, num_classes = choose.anchors(), choose.choice(CLASSES)
    dtype, device = choose.choice(DTYPES[impl]), device_of(impl)
    torch.set_num_threads(choose.randint(1, 3))
    logits = torch.randn(*anchors, num_classes, generator=choose.torch) * choose.choice([1, 4, 40])
    labels = torch.randint(-1, num_classes + 1, anchors, generator=choose.torch)
    labels = labels.masked_fill(
        torch.rand(anchors, generator=choose.torch) < choose.choice([0, 0, 0.9, 1]), -1
    )
    quality = torch.rand(anchors, generator=choose.torch)
    logits, labels, quality = map(choose.layout, (logits.to(dtype), labels, quality))
    labels = labels.to(choose.choice([torch.int64, torch.int32, torch.int16]))
    terms = terms_for(choose, num_classes)
    expected, expected_gradient = reference(logits, labels, quality, terms)
    case = f"{tuple(logits.shape)} {logits.stride()} {dtype} {terms}"

    classes = torch.arange(num_classes)
    x, y, q = (t.to(device) for t in (logits, labels, quality))
    x = x.detach().requires_grad_()
    options = {"quality": q, "impl": impl}
    scale = choose.choice([1.0, 0.3])
    slopes = choose.choice([None, torch.zeros(2, num_classes, dtype=torch.float64, device=device)])
    loss = dense_loss(x, y, terms, scale=scale, slopes=slopes, **options)
    close = functools.partial(torch.testing.assert_close, msg=lambda text: f"{case}: {text}")
    close(loss.cpu().double(), scale * expected.sum(), rtol=2e-6, atol=1e-6)
    if slopes is not None:
        exact = reference_slopes(expected_gradient, labels)
        close(slopes.cpu(), exact, rtol=5e-6, atol=5e-6)
    bins = choose.choice([1, 2, 30])
    counts = count_norms(x, y, bins=bins, impl=impl).cpu()
    norms = (torch.sigmoid(logits.double()) - (labels.unsqueeze(-1) == classes).double()).abs()
    index = (norms[labels >= 0] * bins).long().clamp(max=bins - 1)
    assert (counts - index.flatten().bincount(minlength=bins)).abs().sum() <= 2, case  # rounding
    upstream = choose.choice([1.0, 2.5])
    (gradient,) = torch.autograd.grad(loss * upstream, x)
    exact = scale * upstream * expected_gradient
    close(gradient.cpu().double(), exact, **TOLERANCE[dtype])
    per_anchor = dense_loss_per_anchor(x, y, terms, **options)
    close(per_anchor.cpu().double(), expected, rtol=5e-6, atol=5e-6)
    given = choose.layout(torch.randn(anchors, generator=choose.torch)).to(device)
    (gradient,) = torch.autograd.grad(per_anchor, x, given)
    exact = given.cpu().double().unsqueeze(-1) * expected_gradient
    close(gradient.cpu().double(), exact, **TOLERANCE[dtype])


@every_seed
@pytest.mark.parametrize("impl", [pytest.param("cpp", marks=needs_extension), "eager"])
def test_ranking_equals_float64(impl, seed):
    run(check_ranking, impl, seed, CASES // 2)


def check_ranking(choose, impl):
    dtype = choose.choice(DTYPES["eager"])
    torch.set_num_threads(choose.randint(1, 3))
    levels, labels = [], []
    num_classes = choose.choice(CLASSES)
    for _ in range(choose.randint(1, 3)):
        anchors = choose.anchors()
        logits = torch.randn(*anchors, num_classes, generator=choose.torch)
        logits = choose.choice([logits, logits.round(), 40 * logits])
        level = torch.randint(-1, num_classes + 1, anchors, generator=choose.torch)
        # few positives, because the reference visits all pairs
        share = choose.choice([0, 1]) * min(1, 20 / max(level.numel(), 1))
        is_negative = torch.rand(anchors, generator=choose.torch) >= share
        labels.append(level.masked_fill(is_negative & (level >= 0), num_classes))
        levels.append(choose.strided(logits.to(dtype)).detach().requires_grad_())
    delta, upstream = choose.choice([0.0, 0.5, 1.0]), choose.choice([1.0, 2.5])
    ranking = Ranking(Levels(levels, labels), delta=delta, impl=impl)
    weights = ranking.scores.sigmoid()
    loss = ranking.loss(weights, weights, -weights) * upstream
    gradients = torch.autograd.grad(loss, levels)

    of_classes = [y.unsqueeze(-1) == torch.arange(num_classes) for y in labels]
    masks = [(y >= 0).unsqueeze(-1) & ~z for y, z in zip(labels, of_classes, strict=True)]
    scores = torch.cat(
        [x[z].double() for x, z in zip(levels, of_classes, strict=True)]
    ).detach()  # in another order
    case = f"{[x.shape for x in levels]} {[x.stride() for x in levels]} {dtype} {delta}"
    close = functools.partial(torch.testing.assert_close, msg=lambda text: f"{case}: {text}")
    close(ranking.scores.sort().values, scores.sort().values, rtol=0, atol=0)
    negatives = torch.cat([x[m].double() for x, m in zip(levels, masks, strict=True)]).detach()
    close(ranking.false_positives, ramps(negatives, ranking.scores, delta).sum(1))
    for x, mask, of_class, found in zip(levels, masks, of_classes, gradients, strict=True):
        expected = torch.zeros_like(x, dtype=torch.float64)
        at = x.detach().double()
        expected[mask] = scores.sigmoid() @ ramps(at[mask], scores, delta)
        expected[of_class] = -at[of_class].sigmoid()
        expected *= upstream / max(len(scores), 1)
        close(found.double(), expected, **TOLERANCE[dtype])


def ramps(x, centers, delta):
    """Return the ramp of each x at each center, (P, V)."""
    gap = x - centers.unsqueeze(1)
    return (gap / (2 * delta) + 0.5).clamp(0, 1) if delta else (gap >= 0).double()


def random_boxes(choose, count):
    """Return boxes with exact coordinates, a few of them without area."""
    corner = torch.randint(0, 12, (count, 2), generator=choose.torch)
    size = torch.randint(0, 9, (count, 2), generator=choose.torch)
    return torch.cat([corner, corner + size], dim=1).float() * choose.choice([1, 8, 0.25])


@every_seed
@every_implementation
def test_match_anchors_equals_float64(impl, seed):
    run(check_match_anchors, impl, seed, CASES)


def check_match_anchors(choose, impl):
    torch.set_num_threads(choose.randint(1, 3))
    count = choose.choice([0, 1, 2, 3, 50, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
    anchors = choose.layout(random_boxes(choose, count))
    objects = [
        choose.layout(random_boxes(choose, choose.choice([0, 1, 2, 9, 40])))
        for _ in range(choose.choice([0, 1, 1, 2, 3]))
    ]
    thresholds = sorted(choose.sample([0.11, 0.3, 0.45, 0.51, 0.7], choose.randint(1, 3)))
    labels = [choose.choice([-1, 0, 1]) for _ in range(len(thresholds) + 1)]
    low_quality = choose.choice(LOW_QUALITY)
    device = device_of(impl)
    idxs, matched = match_anchors(
        [boxes.to(device) for boxes in objects],
        anchors.to(device),
        thresholds=thresholds,
        labels=labels,
        low_quality=low_quality,
        impl=impl,
    )
    assert idxs.shape == matched.shape == (len(objects), count)
    for n, boxes in enumerate(objects):
        expected = matched_in_float64(boxes, anchors, thresholds, labels, low_quality)
        assert idxs[n].tolist() == expected[0], low_quality
        assert matched[n].tolist() == expected[1], low_quality


def matched_in_float64(boxes, anchors, thresholds, labels, low_quality):
    """Return object and label of each anchor, from the matrix of all pairs."""
    if not len(boxes) or not len(anchors):
        return [0] * len(anchors), [labels[0]] * len(anchors)
    a, b = boxes.double().unsqueeze(1), anchors.double().unsqueeze(0)
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(0)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b))
    overlap = sides.prod(-1)
    # Rounded to float32, whose quotient decides ties; all other numbers here are exact in both
    iou = (overlap / (area_a + area_b - overlap)).nan_to_num(0.0).float()  # (M, R)
    best, first = iou.amax(dim=0), iou.argmax(dim=0)
    band = sum((best >= torch.tensor(x)).long() for x in thresholds)
    result = torch.tensor(labels)[band]
    top = iou.amax(dim=1, keepdim=True)
    rescued = ((iou == top) & (top > 0)).any(dim=0) & {
        "on": torch.ones_like(best, dtype=torch.bool),
        "clobber": best >= torch.tensor(thresholds[0]),
        "off": torch.zeros_like(best, dtype=torch.bool),
    }[low_quality]
    return first.tolist(), result.masked_fill(rescued, 1).tolist()


# The operators themselves, which read raw memory

LEGAL = {
    "logits": torch.zeros(2, 3, 4),
    "labels": torch.zeros(2, 4, dtype=torch.int32),
    "quality": torch.zeros(2, 4),
    "weights": torch.ones(3, 3),
    "anchor_weights": torch.ones(4),
    "positive": "focal",
    "positive_parameters": torch.ones(4, 3),
    "positive_table": None,
    "negative": "focal",
    "negative_parameters": torch.ones(4, 3),
    "negative_table": None,
    "factor": torch.ones(2, 4),
    "per_anchor": torch.zeros(2, 4),
    "gradient": torch.zeros(2, 3, 4),
    "slopes": torch.zeros(2, 3, dtype=torch.float64),
}
SHAPES = [(), (1,), (2,), (3,), (4,), (8,), (0,), (2, 3), (3, 4), (1, 2, 3, 4), (0, 0, 0)]
WRONG_SHAPES = [*SHAPES, (3, 2), (4, 2), (1, 4), (2, 5), (2, 0), (2, 3, 5), (2, 2, 4), (1, 3, 4)]
DTYPES_OF_TORCH = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
]


def spoiled(tensor):
    """Yield tensors of other shapes, strides and dtypes."""
    yield from (tensor.new_zeros(shape) for shape in WRONG_SHAPES if shape != tensor.shape)
    yield from (tensor.to(dtype) for dtype in DTYPES_OF_TORCH if dtype != tensor.dtype)
    yield tensor.repeat_interleave(2, dim=-1)[..., ::2]
    if tensor.dim() > 1:
        yield tensor.transpose(-2, -1).contiguous().transpose(-2, -1)
    yield tensor[:1].expand(tensor.shape)


@needs_extension
def test_the_operator_of_dense_loss_refuses_memory_that_it_would_misread():
    operator = torch.ops.focal_plugin.dense_loss
    operator(**LEGAL)
    operator(**{**LEGAL, "factor": torch.ones(())})
    for name, tensor in LEGAL.items():
        for wrong in spoiled(tensor) if isinstance(tensor, torch.Tensor) else ():
            if name == "factor" and wrong.shape == ():
                continue
            with pytest.raises(RuntimeError, match=" must be "):
                operator(**{**LEGAL, name: wrong})


@needs_extension
@pytest.mark.parametrize(
    "wrong",
    [
        {"factor": None},
        {"gradient": None},
        {"negative": "varifocal"},
        {"positive": "none of them"},
        {"positive": "binned_cross_entropy"},
        {"negative": "binned_cross_entropy", "negative_table": torch.zeros(0)},
        {"negative_table": torch.ones(3)},
    ],
    ids=str,
)
def test_the_operator_of_dense_loss_refuses_what_it_cannot_compute(wrong):
    with pytest.raises(RuntimeError, match=r"dense_loss|requires|formula"):
        torch.ops.focal_plugin.dense_loss(**{**LEGAL, **wrong})


@needs_extension
def test_the_operator_of_norm_counts_refuses_memory_that_it_would_misread():
    legal = {"logits": LEGAL["logits"], "labels": LEGAL["labels"], "bins": 3}
    operator = torch.ops.focal_plugin.count_norms
    assert operator(**legal).sum() == 24
    for name in ("logits", "labels"):
        for wrong in spoiled(legal[name]):
            is_legal = wrong.dim() == 3 and (*wrong.shape[::2], wrong.is_contiguous()) == (
                2,
                4,
                True,
            )
            if is_legal and wrong.dtype in DTYPES["cpp"]:  # any number of classes
                continue
            with pytest.raises(RuntimeError, match=" must be "):
                operator(**{**legal, name: wrong})
    for bins in (0, -1, 2**31):
        with pytest.raises(RuntimeError, match="bins must be >= 1"):
            operator(**{**legal, "bins": bins})


@needs_extension
def test_the_operators_of_a_ranking_refuse_memory_that_they_would_misread():
    legal = {
        "logits": torch.zeros(2, 3, 4),
        "labels": torch.zeros(2, 4, dtype=torch.int32),
        "edges": torch.linspace(-1, 1, 6, dtype=torch.float64),
        "left": torch.zeros(7, dtype=torch.float64),
    }
    outputs = {
        "heights": torch.zeros(7, dtype=torch.float64),
        "slopes": torch.zeros(7, dtype=torch.float64),
        "gradient": torch.zeros(2, 3, 4),
    }
    for operator, inputs in (("ranking_tally", legal), ("ranking_write", {**legal, **outputs})):
        operator = getattr(torch.ops.focal_plugin, operator)
        operator(**inputs)
        for name, tensor in inputs.items():
            wrong = [tensor.new_zeros(()), tensor.new_zeros(5), tensor.new_zeros(0), tensor.short()]
            wrong += [tensor.repeat_interleave(2, dim=-1)[..., ::2]]
            wrong += [tensor.new_zeros(2, 3, 5), tensor[:1].expand(tensor.shape)]
            for other in wrong:
                with pytest.raises(
                    (RuntimeError, NotImplementedError), match=r"must be|for 'Short'"
                ):
                    operator(**{**inputs, name: other})


@needs_extension
def test_the_operator_of_match_anchors_refuses_memory_that_it_would_misread():
    boxes = torch.zeros(3, 4)
    options = ([0.5], [0, 1], 0.0)
    torch.ops.focal_plugin.match_anchors([boxes, boxes[:0]], boxes, *options)
    for shape in ((), (3,), (4,), (12,), (3, 3), (4, 3), (0,), (3, 0), (1, 3, 4)):
        for dtype in (torch.float32, torch.float64):
            wrong = torch.zeros(shape, dtype=dtype)
            for objects, anchors in (([wrong], boxes), ([boxes], wrong)):
                with pytest.raises(RuntimeError, match="must be Float"):
                    torch.ops.focal_plugin.match_anchors(objects, anchors, *options)
    with pytest.raises(RuntimeError, match="one more than thresholds"):
        torch.ops.focal_plugin.match_anchors([boxes], boxes, [0.5], [0], 0.0)
