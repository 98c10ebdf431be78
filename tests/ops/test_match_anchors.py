"""Bit-for-bit comparison of match_anchors with AnchorMatcher on Detectron2's matrix of IoUs."""

import ctypes
import re
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, pairwise_iou

from focal_plugin.modeling.matcher import AnchorMatcher
from focal_plugin.ops import implementations, match_anchors_triton
from focal_plugin.ops.extension import has_extension
from focal_plugin.ops.match_anchors import LOW_QUALITY, match_anchors

from .conftest import is_imported

CHUNK = 256  # anchors, of csrc/match_anchors.cpp
NAN, INF = float("nan"), float("inf")

needs_extension = pytest.mark.skipif(not has_extension(), reason="the C++ extension is not built")
cpp_and_eager = pytest.mark.parametrize(
    "impl", [pytest.param("cpp", marks=needs_extension), "eager"]
)
every_mode = pytest.mark.parametrize("low_quality", LOW_QUALITY)

BANDS = {
    "RetinaNet": ([0.4, 0.5], [0, -1, 1]),
    "one": ([0.5], [0, 1]),
    "ignored below": ([0.3], [-1, 0]),
    "many, two of them equal": ([0.1, 0.3, 0.3, 0.7], [-1, 0, 1, -1, 1]),
}


def expected_of(gt_boxes, anchors, thresholds, labels, low_quality):
    matcher = AnchorMatcher(list(thresholds), list(labels), low_quality=low_quality)
    return [matcher(pairwise_iou(Boxes(boxes), Boxes(anchors))) for boxes in gt_boxes]


def assert_as_detectron2(gt_boxes, anchors, *, impl, low_quality="on", bands=BANDS["RetinaNet"]):
    thresholds, labels = bands
    idxs, match_labels = match_anchors(
        gt_boxes, anchors, thresholds=thresholds, labels=labels, low_quality=low_quality, impl=impl
    )
    assert (idxs.dtype, match_labels.dtype) == (torch.int64, torch.int8)
    assert idxs.shape == match_labels.shape == (len(gt_boxes), len(anchors))
    expected = expected_of(gt_boxes, anchors, thresholds, labels, low_quality)
    for n, (expected_idxs, expected_labels) in enumerate(expected):
        assert torch.equal(idxs[n], expected_idxs), low_quality
        assert torch.equal(match_labels[n], expected_labels), low_quality


# Boxes


def boxes_between(generator, count, low, high, *, sides):
    corner = torch.rand(count, 2, generator=generator) * (high - low) + low
    shortest, longest = sides
    size = torch.rand(count, 2, generator=generator) * (longest - shortest) + shortest
    return torch.cat([corner, corner + size], dim=1)


def integer_boxes(generator, count, *, longest=5):
    """Return boxes with few coordinates: ties and IoUs of exactly 2/5 and 1/2 are common."""
    corner = torch.randint(0, 6, (count, 2), generator=generator)
    size = torch.randint(1, longest + 1, (count, 2), generator=generator)
    return torch.cat([corner, corner + size], dim=1).float()


def anchors_of_levels(height, width):
    """Return anchors level by level and row by row, like a detector."""
    sizes = [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (16, 32, 64)]
    strides = [8, 16, 32]
    generator = DefaultAnchorGenerator(sizes=sizes, aspect_ratios=[[0.5, 1, 2]], strides=strides)
    return Boxes.cat(generator([torch.zeros(1, 1, height // s, width // s) for s in strides]))


def scatter(generator, boxes, values):
    """Return boxes with each value at some coordinates."""
    boxes = boxes.clone()
    for value in values:
        at = torch.randint(0, boxes.numel(), (max(1, boxes.numel() // 20),), generator=generator)
        boxes.view(-1)[at] = value
    return boxes


def case(name):
    """Return objects of some images, and anchors."""
    generator = torch.Generator().manual_seed(sorted(CASES).index(name))
    return CASES[name](generator)


def _random(g):
    objects = [boxes_between(g, m, -10, 90, sides=(2, 60)) for m in (20, 0, 1, 7)]
    return objects, boxes_between(g, 1000, -10, 90, sides=(2, 60))


def _integers(g):
    """Return images of which the first has objects too large for an anchor above the thresholds."""
    objects = [integer_boxes(g, 12, longest=15), *(integer_boxes(g, m) for m in (1, 9, 30))]
    return objects, integer_boxes(g, 3 * CHUNK + 1)


def _levels(g):
    return [boxes_between(g, m, 0, 120, sides=(3, 100)) for m in (1, 12, 40)], anchors_of_levels(
        160, 224
    ).tensor


def _strays(g):
    near, far = (boxes_between(g, 4, low, low + 50, sides=(3, 20)) for low in (0, 900))
    return [torch.cat([far, near]), near, far], boxes_between(g, 300, 0, 50, sides=(3, 20))


def _degenerate(g):
    """Return boxes without a width or a height, with swapped corners, and points."""
    objects, anchors = boxes_between(g, 24, 0, 20, sides=(-6, 9)), integer_boxes(g, 300)
    objects[::4, 2] = objects[::4, 0]
    objects[1::4, 3] = objects[1::4, 1]
    anchors[::5, 2:] = anchors[::5, :2]
    anchors[1::5] = anchors[1::5, [2, 1, 0, 3]]
    return [objects, anchors[:9]], anchors


def _huge(g):
    """Return boxes with areas up to the largest float, so that the sum of two areas is infinite."""
    return [5e17 * integer_boxes(g, 9), 3.5e18 * integer_boxes(g, 9)], 3.5e18 * integer_boxes(
        g, 300
    )


def _tiny(g):
    """Return boxes whose areas are subnormal or 0."""
    return [1e-22 * integer_boxes(g, 9), 1e-21 * integer_boxes(g, 9)], 1e-22 * integer_boxes(g, 300)


def _nan(g):
    return [scatter(g, integer_boxes(g, 20), [NAN]), torch.full((2, 4), NAN)], scatter(
        g, integer_boxes(g, 2 * CHUNK), [NAN]
    )


def _infinite_objects(g):
    return [scatter(g, integer_boxes(g, 20), [INF, -INF])], integer_boxes(g, 300)


def _infinite_anchors(g):
    return [integer_boxes(g, 20)], scatter(g, integer_boxes(g, 300), [INF, -INF])


CASES = {
    "random": _random,
    "integers": _integers,
    "levels": _levels,
    "objects that overlap nothing": _strays,
    "degenerate": _degenerate,
    "huge": _huge,
    "tiny": _tiny,
    "NaN": _nan,
    "infinite objects": _infinite_objects,
    "infinite anchors": _infinite_anchors,
    "no objects": lambda g: ([torch.zeros(0, 4)] * 2, integer_boxes(g, 300)),
    "no anchors": lambda g: ([integer_boxes(g, 3), torch.zeros(0, 4)], torch.zeros(0, 4)),
    "one anchor": lambda g: ([integer_boxes(g, 3)], integer_boxes(g, 1)),
    "no images": lambda g: ([], integer_boxes(g, 5)),
}


def test_the_cases_include_the_hard_ones():
    """They have ties between objects and anchors of several chunks, and IoUs on a threshold."""
    objects, anchors = case("integers")
    ious = pairwise_iou(Boxes(objects[0]), Boxes(anchors))
    best = ious.amax(dim=0)
    assert ((ious == best).sum(dim=0) > 1).sum() > 10
    top_chunks = [
        set((row == row.max()).nonzero().div(CHUNK, rounding_mode="floor").flatten().tolist())
        for row in ious
    ]
    assert sum(len(chunks) > 1 for chunks in top_chunks) > 2
    for threshold in (0.4, 0.5):
        assert (best == torch.tensor(threshold)).any()
    modes = [expected_of(objects, anchors, *BANDS["RetinaNet"], x)[0][1] for x in LOW_QUALITY]
    assert not torch.equal(modes[0], modes[1])
    assert not torch.equal(modes[1], modes[2])
    assert all(set(labels.tolist()) == {-1, 0, 1} for labels in modes)


@cpp_and_eager
@pytest.mark.parametrize("name", CASES)
def test_indices_and_labels_are_detectron2s(name, impl):
    for low_quality in LOW_QUALITY:
        assert_as_detectron2(*case(name), low_quality=low_quality, impl=impl)


@cpp_and_eager
@pytest.mark.parametrize("bands", BANDS.values(), ids=BANDS)
def test_all_bands_of_iou_are_detectron2s(bands, impl):
    for low_quality in LOW_QUALITY:
        assert_as_detectron2(*case("integers"), low_quality=low_quality, bands=bands, impl=impl)


def bands_at_every_iou(gt_boxes, anchors, count):
    """A threshold is the best IoU of some anchors: an error in its last bit changes a label."""
    best = pairwise_iou(Boxes(gt_boxes), Boxes(anchors)).amax(dim=0)
    thresholds = best[best > 0].unique()[:count].double().tolist()
    return thresholds, [(0, -1, 1)[i % 3] for i in range(len(thresholds) + 1)]


@cpp_and_eager
@pytest.mark.parametrize("name", ["random", "levels", "tiny"])
def test_every_bit_of_an_iou_is_detectron2s(name, impl):
    """A fused multiplication and addition would change it."""
    objects, anchors = case(name)
    bands = bands_at_every_iou(objects[0], anchors, 2000)
    assert_as_detectron2(objects[:1], anchors, low_quality="off", bands=bands, impl=impl)


@cpp_and_eager
@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1, 3 * CHUNK])
def test_an_objects_best_anchor_may_be_anywhere(count, impl):
    """It may also be at either end of a chunk; the other anchors overlap the object less."""
    best_one = torch.tensor([10.0, 10.0, 20.0, 20.0])
    objects = [torch.tensor([[10.0, 10.0, 14.0, 18.0]])]
    edges = {0, CHUNK - 1, CHUNK, 2 * CHUNK - 1, 2 * CHUNK, count - 1}
    for position in sorted(x for x in edges if x < count):
        anchors = torch.tensor([10.0, 10.0, 20.0, 21.0]).repeat(count, 1)
        anchors[position] = best_one
        _, labels = match_anchors(
            objects, anchors, thresholds=[0.4, 0.5], labels=[0, -1, 1], impl=impl
        )
        assert labels[0].nonzero().tolist() == [[position]]


@cpp_and_eager
def test_all_anchors_that_tie_for_an_object_are_positive(impl):
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(2 * CHUNK + 3, 1)
    objects = [
        torch.tensor([[50.0, 50.0, 60.0, 60.0], [0.0, 0.0, 1.0, 1.0], [9.0, 9.0, 10.0, 10.0]])
    ]
    idxs, labels = match_anchors(objects, anchors, thresholds=[0.5], labels=[0, 1], impl=impl)
    assert (labels == 1).all()
    assert (idxs == 1).all()  # the first of the two in a tie


def beside(number, direction):
    """Return the next float32."""
    return torch.nextafter(torch.tensor(number), torch.tensor(direction)).item()


@cpp_and_eager
@pytest.mark.parametrize(("mode", "label"), [("on", 1), ("clobber", 1), ("off", -1)])
def test_an_iou_on_the_lowest_threshold_has_reached_it(mode, label, impl):
    """The IoU is 2 / 5, whose float32 differs from the threshold's float64."""
    objects, anchors = [torch.tensor([[0.0, 0.0, 2.0, 5.0]])], torch.tensor([[0.0, 0.0, 5.0, 5.0]])
    assert_as_detectron2(objects, anchors, low_quality=mode, impl=impl)
    options = {"thresholds": [0.4, 0.5], "labels": [0, -1, 1], "low_quality": mode}
    assert match_anchors(objects, anchors, impl=impl, **options)[1].tolist() == [[label]]


@cpp_and_eager
@pytest.mark.parametrize(
    "box",
    [
        [990.0, 1000.0, beside(1000.0, INF), 1010.0],
        [1000.0, 990.0, 1010.0, beside(1000.0, INF)],
        [beside(3560.0, -INF), 1000.0, 3570.0, 1010.0],
        [1000.0, beside(1010.0, -INF), 1010.0, 1020.0],
    ],
    ids=["left", "top", "right", "bottom"],
)
def test_an_object_that_barely_reaches_a_chunk_has_its_outermost_anchor(box, impl):
    anchors = torch.tensor([[x, 1000.0, x + 10, 1010.0] for x in range(1000, 3560, 10)])
    assert len(anchors) == CHUNK
    objects = torch.tensor([box])
    assert 0 < pairwise_iou(Boxes(objects), Boxes(anchors)).max() < 1e-4
    assert_as_detectron2([objects], anchors, impl=impl)


@cpp_and_eager
def test_an_iou_that_overflows_float32_is_no_overlap(impl):
    """Detectron2's IoU is NaN there, and its matcher stops."""
    boxes = torch.tensor([[0.0, 0.0, 1e20, 1e20]])
    assert pairwise_iou(Boxes(boxes), Boxes(boxes)).isnan().all()
    idxs, labels = match_anchors([boxes], boxes, thresholds=[0.5], labels=[0, 1], impl=impl)
    assert (idxs.tolist(), labels.tolist()) == ([[0]], [[0]])


@cpp_and_eager
def test_strided_boxes_are_read_correctly(impl):
    objects, anchors = case("random")
    objects = [boxes.repeat(1, 2)[:, :4] for boxes in objects]
    assert not anchors.t().contiguous().t().is_contiguous()
    assert_as_detectron2(objects, anchors.t().contiguous().t(), impl=impl)


@needs_extension
def test_the_number_of_threads_changes_nothing():
    """The number of pairs is enough for two threads."""
    anchors = anchors_of_levels(320, 480).tensor
    objects = [boxes_between(torch.Generator().manual_seed(0), 240, 0, 400, sides=(3, 300))]
    pairs_of_a_thread = 2**22  # see csrc/match_anchors.cpp
    assert len(anchors) * len(objects[0]) > 1.5 * pairs_of_a_thread
    before = torch.get_num_threads()
    for mode in LOW_QUALITY:
        options = {"thresholds": [0.4, 0.5], "labels": [0, -1, 1], "low_quality": mode}
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            try:
                results.append(match_anchors(objects, anchors, impl="cpp", **options))
            finally:
                torch.set_num_threads(before)
        assert all(map(torch.equal, *results)), mode
    assert_as_detectron2(objects, anchors, low_quality="on", impl="cpp")


# Choice of the implementation, and legal input


@needs_extension
def test_auto_is_the_extension_where_it_is_built(monkeypatch):
    monkeypatch.delattr(torch, "maximum")  # the eager implementation requires it
    assert_as_detectron2(*case("random"), impl="auto")


def test_auto_falls_back_and_a_requested_implementation_does_not(monkeypatch):
    monkeypatch.setattr(implementations, "has_extension", lambda: False)
    assert_as_detectron2(*case("random"), impl="auto")
    with pytest.raises(ValueError, match="impl='cpp' is not available: the extension is not built"):
        assert_as_detectron2(*case("random"), impl="cpp")


def test_auto_does_not_use_tritons_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(implementations, "has_extension", lambda: False)
    monkeypatch.setattr(match_anchors_triton, "match", None)
    assert_as_detectron2(*case("random"), impl="auto")


def test_triton_requires_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="impl='triton' is not available: "):
        assert_as_detectron2(*case("random"), impl="triton")


BOX = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"impl": "cuda"}, "impl must be one of 'auto', 'cpp', 'triton', 'eager', got 'cuda'"),
        ({"low_quality": True}, "low_quality must be one of 'on', 'clobber', 'off', got True"),
        ({"anchors": BOX[0]}, r"anchors must be \(.., 4\), got \(4,\)"),
        ({"gt_boxes": [BOX, torch.zeros(0)]}, r"gt_boxes must be \(.., 4\), got \(0,\)"),
        ({"gt_boxes": [BOX.double()]}, "gt_boxes must be float32, got torch.float64"),
        ({"anchors": BOX.half()}, "anchors must be float32, got torch.float16"),
        ({"gt_boxes": [BOX.to("meta")]}, "gt_boxes must be on cpu, got meta"),
        ({"thresholds": []}, r"thresholds must be > 0 and ascending, got \[\]"),
        ({"thresholds": [0.0, 0.5]}, "thresholds must be > 0 and ascending"),
        ({"thresholds": [NAN, 0.5]}, "thresholds must be > 0 and ascending"),
        ({"thresholds": [0.5, 0.4]}, "thresholds must be > 0 and ascending"),
        ({"labels": [0, 1]}, r"labels must be 3 of -1, 0 and 1, got \[0, 1\]"),
        ({"labels": [0, 2, 1]}, r"labels must be 3 of -1, 0 and 1, got \[0, 2, 1\]"),
    ],
)
def test_illegal_input_is_an_error(change, message):
    legal = {"gt_boxes": [BOX], "anchors": BOX, "thresholds": [0.4, 0.5], "labels": [0, -1, 1]}
    with pytest.raises(ValueError, match=message):
        match_anchors(**{**legal, **change})


# Memory


def peak_and_resident_kib():
    status = Path("/proc/self/status").read_text()
    return [int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) for name in ("VmHWM", "VmRSS")]


def extra_mib(impl):
    """Return the peak memory of a call, without its result."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(201_600, 2, generator=generator) * 1000
    anchors = torch.cat([corner, corner + 64], dim=1)
    objects = [anchors[:100] + 3]
    options = {"thresholds": [0.4, 0.5], "labels": [0, -1, 1], "low_quality": "clobber"}
    match_anchors(objects, anchors[:3000], impl=impl, **options)
    # Freed memory would hide later allocations: return it, and allocate up to the peak so far
    ctypes.CDLL(None).malloc_trim(0)
    peak, resident = peak_and_resident_kib()
    ballast = b"x" * (1024 * (peak - resident))
    before, _ = peak_and_resident_kib()
    outputs = match_anchors(objects, anchors, impl=impl, **options)
    after, _ = peak_and_resident_kib()
    assert len(ballast) < 2**30, "the ballast must live until here"
    return (after - before) / 1024 - sum(x.nbytes for x in outputs) / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc, in KiB")
@pytest.mark.parametrize(
    ("impl", "limit_mib"), [pytest.param("cpp", 2, marks=needs_extension), ("eager", 12)]
)
def test_memory_is_far_below_that_of_all_pairs(impl, limit_mib, without_triton):
    """The IoUs of 201,600 anchors and 100 objects take 77 MiB per copy."""
    assert without_triton(extra_mib, impl) < limit_mib


# Kernels


@pytest.mark.parametrize(("mode", "label"), [("on", 1), ("clobber", 1), ("off", -1)])
def test_kernels_give_an_iou_on_the_lowest_threshold_its_band(mode, label, interpreter):
    interpreter(test_an_iou_on_the_lowest_threshold_has_reached_it, mode, label, "triton")


@every_mode
def test_kernels_give_detectron2s_indices_and_labels(low_quality, interpreter):
    """The images have different numbers of objects, and the anchors take two programs."""
    generator = torch.Generator().manual_seed(0)
    anchors = integer_boxes(generator, match_anchors_triton.ANCHORS_PER_PROGRAM + 77)
    large = integer_boxes(generator, 5, longest=15)
    objects = [large, torch.zeros(0, 4), _degenerate(generator)[0][0][:7]]
    large[3, 1] = anchors[50:60, 2] = NAN
    options = {"low_quality": low_quality, "impl": "triton"}
    interpreter(assert_as_detectron2, objects, anchors, **options)


def test_kernels_give_every_bit_of_detectron2s_ious(interpreter):
    objects, anchors = case("random")
    bands = bands_at_every_iou(objects[3], anchors, 40)
    options = {"bands": bands, "low_quality": "off", "impl": "triton"}
    interpreter(assert_as_detectron2, objects[3:], anchors, **options)


@pytest.mark.parametrize("name", ["no objects", "no anchors", "no images"])
def test_kernels_return_background_for_empty_inputs(name, interpreter):
    interpreter(assert_as_detectron2, *case(name), impl="triton")


def test_code_for_a_gpu_rounds_as_detectron2(tmp_path, monkeypatch):
    """Compilation requires no GPU. There is no fused multiply-add and no approximate division."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from focal_plugin.ops import match_anchors_triton_kernel as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = {"matched_idxs": "*i64", "match_labels": "*i8"}
    numbers = {"num_objects": "i32", "num_anchors": "i32", "rescue_from": "fp32"}
    constants = {"thresholds": (0.4, 0.5), "labels": (0, -1, 1), "BLOCK": 512}
    for kernel in (kernels.match_kernel, kernels.rescue_kernel):
        types = {**numbers, **pointers, **dict.fromkeys(constants, "constexpr")}
        source = ASTSource(
            kernel,
            signature={name: types.get(name, "*fp32") for name in kernel.arg_names},
            constexprs={
                (kernel.arg_names.index(name),): value
                for name, value in constants.items()
                if name in kernel.arg_names
            },
        )
        compiled = triton.compile(
            source, target=GPUTarget("cuda", 90, 32), options=match_anchors_triton.KERNEL_OPTIONS
        )
        code = compiled.asm["ptx"]
        assert "fma." not in code
        assert "div.rn.f32" in code
        assert "div.full" not in code


def test_the_operation_works_without_triton(without_triton):
    """The import of the operation imports no kernel, because Triton is not installed."""
    without_triton(assert_as_detectron2, *case("random"), impl="auto")
    assert not without_triton(is_imported, "focal_plugin.ops.match_anchors_triton_kernel")
