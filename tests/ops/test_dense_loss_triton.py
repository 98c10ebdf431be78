"""
Triton kernel of the dense loss.

Without a GPU, Triton's interpreter runs it in NumPy. This needs a separate process, because the
interpreter changes Triton for the rest of a process. Triton also compiles the kernel for an absent
GPU, which finds errors that the interpreter misses.
"""

import math
import re
import shutil
from types import SimpleNamespace

import pytest
import torch

from focal_plugin.losses import SigmoidFocalLoss, sigmoid_focal_loss
from focal_plugin.losses.asymmetric import AsymmetricNegative
from focal_plugin.losses.ghm import BinnedCrossEntropy
from focal_plugin.losses.gumbel import Gumbel, GumbelComplement
from focal_plugin.losses.matchability_aware import DetachedFocal, SoftTarget
from focal_plugin.losses.poly_focal import PolyFocal
from focal_plugin.losses.quality_focal import QualityFocal
from focal_plugin.losses.sigmoid_cross_entropy import CrossEntropy
from focal_plugin.losses.sigmoid_focal import Focal
from focal_plugin.losses.sigmoid_focal_star import FocalStar
from focal_plugin.losses.sigmoid_hinge import Hinge
from focal_plugin.losses.varifocal import Varifocal
from focal_plugin.ops import Formula, Terms, dense_loss, norm_counts_eager, norm_counts_triton
from focal_plugin.ops import dense_loss_eager as eager
from focal_plugin.ops import dense_loss_triton as triton_loss
from focal_plugin.ops.dense_loss import implementation
from focal_plugin.ops.dense_loss_block import Block

from .conftest import is_imported

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
layouts = pytest.mark.parametrize("layout", ["rows", "planes"])

FOCAL = Terms(Focal(2.0), Focal(2.0), 0.25, 0.75)
TERMS = {
    "cross entropy": Terms(CrossEntropy(), CrossEntropy()),
    "focal": FOCAL,
    "focal 1.7, smoothed": Terms(Focal(1.7, 0.1), Focal(1.7, 0.1)),
    "focal 11": Terms(Focal(11.0), Focal(11.0)),
    "FL*": Terms(FocalStar(2.0, 1.0), FocalStar(2.0, 1.0), 0.25, 0.75),
    "Poly": Terms(PolyFocal(2.0, 0.25, -1.0), PolyFocal(1.5, 0.75, 1.0)),
    "hinge": Terms(Hinge(0.7), Hinge(0.7)),
    "quality": Terms(QualityFocal(2.0), Focal(2.0)),
    "quality 0": Terms(QualityFocal(0.0), Focal(0.0)),
    "quality 1.5": Terms(QualityFocal(1.5), Focal(1.5)),
    "varifocal": Terms(Varifocal(0.75, 1.3), Focal(1.3), negative_weight=0.75),
    "soft target": Terms(SoftTarget(1.5), DetachedFocal(1.5), negative_weight=0.75),
    "soft target 2": Terms(SoftTarget(2.0), DetachedFocal(2.0)),
    "aligned target": Terms(SoftTarget(0.75, 0.25, 0.01), DetachedFocal(0.0)),
    "score as target": Terms(SoftTarget(0.0, 1.0, 0.01), DetachedFocal(0.5)),
    "constant target": Terms(SoftTarget(0.0), DetachedFocal(11.0)),
    "Gumbel": Terms(Gumbel(), GumbelComplement(), 0.25, 0.75),
    "asymmetric": Terms(Focal(1.0), AsymmetricNegative(4.0, 0.05)),
    "asymmetric .5": Terms(Focal(0.0), AsymmetricNegative(0.5, 0.3)),
    "bins": Terms(
        BinnedCrossEntropy(torch.rand(7)), BinnedCrossEntropy(torch.tensor([0.1, 2.0, 0.5]))
    ),
}
UP, DOWN = torch.tensor([0.3, 0.9, 1.5]), torch.tensor([9.5, 4.0, 0.0])
OF_CLASSES = {
    "gamma": Terms(Focal(DOWN), Focal(DOWN, 0.1), UP, 1 / UP),
    "FL*": Terms(FocalStar(UP, DOWN), FocalStar(DOWN + 1, -UP)),
    "Poly": Terms(PolyFocal(DOWN, UP, -UP), PolyFocal(2.0, UP, DOWN)),
    "hinge": Terms(Hinge(UP / 2), Hinge(UP / 1.5)),
    "margin": Terms(Focal(2.0), AsymmetricNegative(DOWN, UP / 2)),
    "constant": Terms(QualityFocal(1.5), DetachedFocal(UP)),
    "spared": Terms(CrossEntropy(), CrossEntropy(), 0.3, spared=UP > 1),
    "labels": Terms(Focal(2.0), Focal(2.0), 0.3, anchor_weight=torch.tensor([2.0, 0.0, 1.0, 3.0])),
}
"""Terms for three classes."""
# The interpreter rounds twice where a GPU has one instruction (fma). With half-precision input, the
# computation is less exact, and the result is rounded.
TOLERANCE = {
    torch.float32: {"rtol": 5e-6, "atol": 1e-6},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-6},
    torch.float16: {"rtol": 2**-10, "atol": 1e-6},
}


class _NoGPU:
    """Compile for a GPU of compute capability 9.0, through the functions that Triton calls."""

    def get_current_device(self):
        return 99  # a device index under which no other test looks for compiled kernels

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Return the list of the kernels that are compiled in place of a launch."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from triton.runtime.driver import DriverConfig

    from focal_plugin.ops import dense_loss_triton_kernel, norm_counts_triton_kernel

    kernels = []

    class Compiler:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda *args, **options: kernels.append(
                self.kernel.warmup(*args, grid=grid, **options)
            )

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(DriverConfig, "active", _NoGPU())
    for module, name in (
        (dense_loss_triton_kernel, "dense_loss_kernel"),
        (norm_counts_triton_kernel, "norm_counts_kernel"),
    ):
        monkeypatch.setattr(module, name, Compiler(getattr(module, name)))
    return kernels


@pytest.fixture
def compile_only(compiled):
    """Return a function like `evaluate` that returns the compiled kernel in place of a launch."""

    def evaluate(*args):
        triton_loss.evaluate(*args)
        return compiled.pop()

    return evaluate


def make_block(shape, dtype=torch.float32, scale=4.0, device="cpu"):
    """Return a block (G, K, T) with every kind of label, NaN where ignored, and qualities of 0."""
    generator = torch.Generator().manual_seed(0)
    groups, num_classes, anchors = shape
    logits = (torch.randn(shape, generator=generator) * scale).to(dtype)
    labels = torch.randint(
        -1, num_classes + 1, (groups, anchors), generator=generator, dtype=torch.int32
    )
    logits.masked_fill_((labels < 0).unsqueeze(1), math.nan)
    quality = ((torch.rand(labels.shape, generator=generator) - 0.1) / 0.8).clamp(0, 1)
    return Block(*(x.to(device) for x in (logits, labels, quality)))


def of_layout(layout, num_classes=3):
    return (61, num_classes, 1) if layout == "rows" else (2, num_classes, 29)


def assert_equals_eager(actual, block, terms, factor):
    loss, gradient = actual
    expected, expected_gradient = eager.evaluate(block, terms, factor)
    is_half = block.logits.dtype != torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-5 if is_half else 5e-6, atol=1e-6)
    assert (loss[block.labels < 0] == 0).all()
    if factor is None:
        assert gradient is None
        return
    torch.testing.assert_close(gradient, expected_gradient, **TOLERANCE[gradient.dtype])
    assert (gradient[(block.labels < 0).unsqueeze(1).expand_as(gradient)] == 0).all()


@layouts
@pytest.mark.parametrize("name", TERMS)
def test_every_formula_equals_eager(name, layout, interpreter):
    block, factor = make_block(of_layout(layout)), torch.tensor(0.3)
    actual = interpreter(triton_loss.evaluate, block, TERMS[name], factor)
    assert_equals_eager(actual, block, TERMS[name], factor)


@layouts
@pytest.mark.parametrize("name", OF_CLASSES)
def test_each_class_can_have_its_own_parameters(name, layout, interpreter):
    block, factor = make_block(of_layout(layout)), torch.tensor(0.3)
    actual = interpreter(triton_loss.evaluate, block, OF_CLASSES[name], factor)
    assert_equals_eager(actual, block, OF_CLASSES[name], factor)


@layouts
@pytest.mark.parametrize("name", ["gamma", "spared", "labels"])
def test_slopes_equal_eager(name, layout, interpreter):
    block, terms = make_block(of_layout(layout)), OF_CLASSES[name]
    for factor in (None, torch.tensor(0.3)):
        actual = interpreter(_slopes, triton_loss.evaluate, block, terms, factor)
        expected = _slopes(eager.evaluate, block, terms, factor)
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=0)


def _slopes(evaluate, block, terms, factor):
    slopes = torch.ones(2, block.logits.shape[1], dtype=torch.float64)
    evaluate(block, terms, factor, slopes)
    return slopes


@pytest.mark.parametrize("shape", [(61, 3, 1), (2, 3, 29), (40, 80, 1), (2, 80, 217)])
@pytest.mark.parametrize("bins", [1, 2, 30, 64])
def test_norms_are_counted_like_eager(bins, shape, interpreter):
    block = make_block(shape)
    actual = interpreter(norm_counts_triton.count, block, bins)
    difference = actual - norm_counts_eager.count(block, bins)
    assert difference.sum() == 0
    assert difference.abs().sum() <= 2  # a norm may lie at the edge of a bin


def test_no_logits_have_no_norms():
    assert norm_counts_triton.count(make_block((2, 3, 0)), 4).tolist() == [0] * 4


def test_the_cases_cover_every_formula_with_a_kernel():
    def kernels(formula):
        yield formula.kernel
        for kind in formula.__subclasses__():
            yield from kernels(kind)

    tested = {x.kernel for terms in TERMS.values() for x in terms.formulas}
    assert tested == set(kernels(Formula)) - {None}


@pytest.mark.parametrize(
    "shape",
    [
        *[(2, num_classes, anchors) for num_classes in (1, 3) for anchors in (5, 77, 130)],
        *[(anchors, num_classes, 1) for num_classes in (1, 3) for anchors in (1, 5, 130)],
        *[(1, 80, 5), (1, 80, 130), (5, 80, 1), (33, 80, 1)],
    ],
)
def test_every_size_works(shape, interpreter):
    block, factor = make_block(shape), torch.tensor(-2.0)
    actual = interpreter(triton_loss.evaluate, block, FOCAL, factor)
    assert_equals_eager(actual, block, FOCAL, factor)


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 3, 0)])
def test_an_empty_block_has_no_loss(shape):
    block = make_block(shape)
    loss, gradient = triton_loss.evaluate(block, FOCAL, torch.tensor(1.0))
    assert loss.shape == block.labels.shape
    assert (loss == 0).all()
    assert gradient.shape == shape


@layouts
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype, layout, interpreter):
    block = make_block(of_layout(layout), dtype)
    factor = torch.tensor(64.0)
    for terms in (FOCAL, TERMS["quality 1.5"]):
        actual = interpreter(triton_loss.evaluate, block, terms, factor)
        assert actual[0].dtype == torch.float32
        assert actual[1].dtype == dtype
        assert_equals_eager(actual, block, terms, factor)


@layouts
def test_each_anchor_can_have_its_own_factor(layout, interpreter):
    block = make_block(of_layout(layout))
    factor = torch.linspace(-3, 3, block.labels.numel()).view(block.labels.shape)
    actual = interpreter(triton_loss.evaluate, block, FOCAL, factor)
    assert_equals_eager(actual, block, FOCAL, factor)


@layouts
def test_without_a_factor_there_is_only_the_loss(layout, interpreter):
    block = make_block(of_layout(layout))
    assert_equals_eager(interpreter(triton_loss.evaluate, block, FOCAL, None), block, FOCAL, None)


@layouts
@pytest.mark.parametrize("num_classes", [3, 16])
def test_each_class_can_have_its_own_weights(num_classes, layout, interpreter):
    block, factor = make_block(of_layout(layout, num_classes)), torch.tensor(1.0)
    of_positives = torch.linspace(0.1, 0.9, num_classes)
    terms = Terms(Focal(2.0), CrossEntropy(), of_positives, of_positives.flip(0) ** 2)
    actual = interpreter(triton_loss.evaluate, block, terms, factor)
    assert_equals_eager(actual, block, terms, factor)
    terms = Terms(Focal(2.0), CrossEntropy(), 0.5, of_positives)
    actual = interpreter(triton_loss.evaluate, block, terms, factor)
    assert_equals_eager(actual, block, terms, factor)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
def test_extreme_logits_give_finite_losses_and_gradients(gamma, interpreter):
    magnitudes = torch.tensor([17.0, 45.0, 80.0, 87.0, 88.0, 89.0, 104.0, 1e4, 1e30])
    x = torch.cat([magnitudes, -magnitudes])
    logits = torch.stack([x, x.flip(0)]).unsqueeze(0)  # a positive and a negative at each
    block = Block(logits, torch.zeros(1, len(x), dtype=torch.int32), torch.ones(1, len(x)))
    factor = torch.tensor(1.0)
    for positive in (Focal(gamma), Varifocal(0.75, gamma)):
        terms = Terms(positive, Focal(gamma))
        actual = interpreter(triton_loss.evaluate, block, terms, factor)
        assert_equals_eager(actual, block, terms, factor)
    terms = Terms(Focal(gamma, 0.1), Focal(gamma, 0.1))
    actual = interpreter(triton_loss.evaluate, block, terms, factor)
    assert all(x.isfinite().all() for x in actual)


def test_the_gradient_is_exact_to_the_last_bits(interpreter):
    """The error is relative, at logits from -15 to 15, where p_t is as small as 3e-7."""
    x = torch.linspace(-15, 15, 301)
    for label, sign in ((0, 1), (1, -1)):
        labels = torch.full((1, len(x)), label, dtype=torch.int32)
        block = Block(x.view(1, 1, -1), labels, None)
        for gamma in (0.0, 0.5, 2.0):
            terms = Terms(Focal(gamma), Focal(gamma))
            _, gradient = interpreter(triton_loss.evaluate, block, terms, torch.tensor(1.0))
            x_t = sign * x.double()
            p, q = torch.sigmoid(x_t), torch.sigmoid(-x_t)
            ce = torch.nn.functional.softplus(-x_t, threshold=50)
            expected = -sign * q**gamma * (gamma * p * ce + q)
            torch.testing.assert_close(gradient.flatten().double(), expected, rtol=2e-6, atol=0)


@layouts
def test_a_nan_propagates(layout, interpreter):
    shape = of_layout(layout)
    for label in (0, 1, 3):  # its own logit, another's, the background's
        block = make_block(shape)
        block.labels[0, 0] = label
        block.logits[0, :, 0] = torch.tensor([math.nan, 1.0, -1.0])
        loss, gradient = interpreter(triton_loss.evaluate, block, FOCAL, torch.tensor(1.0))
        assert loss.isnan().nonzero().tolist() == [[0, 0]]
        assert gradient.isnan().nonzero().tolist() == [[0, 0, 0]]


@layouts
def test_gradients_that_would_be_subnormal_are_zero(layout, interpreter):
    """Neither a weight nor the scale changes which gradients are flushed."""
    groups, num_classes, anchors = shape = of_layout(layout)
    x = torch.linspace(-60, -30, groups * anchors).view(groups, 1, anchors).expand(shape)
    labels = torch.full((groups, anchors), num_classes, dtype=torch.int32)
    block = Block(x.contiguous(), labels, None)
    terms = Terms(CrossEntropy(), CrossEntropy(), 0.01, 0.1)
    _, gradient = interpreter(triton_loss.evaluate, block, terms, torch.tensor(1e-3))
    flushed = torch.sigmoid(x.double()) < 1e-20
    assert flushed.any()
    assert (gradient[flushed] == 0).all()
    assert (gradient[~flushed] > 0).all()

    x = -x.contiguous()  # for positives, which are of class 0
    block = Block(x, torch.zeros_like(labels), None)
    _, gradient = interpreter(triton_loss.evaluate, block, terms, torch.tensor(1e-3))
    assert (gradient[:, 0][flushed[:, 0]] == 0).all()
    assert (gradient[:, 0][~flushed[:, 0]] < 0).all()


def test_autograd_works(interpreter):
    """The input is a pyramid's levels in a convolution's layout, with an upstream gradient."""
    torch.testing.assert_close(*interpreter(_loss_and_gradients), **TOLERANCE[torch.float32])


def _loss_and_gradients():
    results = []
    for impl in ("triton", "eager"):
        generator = torch.Generator().manual_seed(0)
        outputs = [torch.randn(2, 6, n, n, generator=generator) for n in (5, 1)]
        views = [x.requires_grad_().view(2, 2, 3, *x.shape[2:]) for x in outputs]
        views = [x.permute(0, 3, 4, 1, 2) for x in views]
        labels = [torch.randint(-1, 4, x.shape[:-1], generator=generator) for x in views]
        loss = dense_loss(views, labels, FOCAL, scale=0.1, impl=impl)
        results.append([loss.detach(), *torch.autograd.grad(2.5 * loss, outputs)])
    return results


def test_auto_does_not_use_the_interpreter(interpreter):
    assert interpreter(_chosen, "triton") == triton_loss.__name__
    assert interpreter(_chosen, "auto") != triton_loss.__name__


def _chosen(impl):
    return implementation(impl, make_block((1, 3, 5)), FOCAL).__module__


@pytest.mark.parametrize(
    ("dtype", "terms", "reason"),
    [
        (torch.float32, FOCAL, "requires tensors on a GPU, got cpu"),
        (torch.float64, FOCAL, "got torch.float64"),
        (torch.float32, Terms(Formula(), CrossEntropy()), "Formula is not one of its formulas"),
    ],
)
def test_the_error_says_why_triton_is_not_available(dtype, terms, reason, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    block = make_block((1, 3, 5), dtype)
    with pytest.raises(ValueError, match=f"'triton' is not available: .*{reason}"):
        implementation("triton", block, terms)


@pytest.mark.parametrize(
    ("capability", "compiler", "reason"),
    [
        ((7, 5), "gcc", "of compute capability 8.0 or higher"),
        ((8, 0), None, "requires a C compiler"),
        ((8, 0), "gcc", None),
    ],
)
def test_the_error_says_what_a_gpu_lacks(capability, compiler, reason, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(shutil, "which", lambda name: compiler)
    of_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    answer = triton_loss.why_not(Block(of_gpu, None, None), FOCAL)
    assert answer is None if reason is None else reason in answer


def test_the_package_works_without_triton(without_triton):
    """TorchVision imports Triton if it is installed, so the test hides it."""
    assert without_triton(_value_of, "auto") == pytest.approx(_value_of("auto"))
    assert not without_triton(is_imported, "focal_plugin.ops.dense_loss_triton_kernel")
    with pytest.raises(ValueError, match="impl='triton' is not available: Triton is not installed"):
        without_triton(_value_of, "triton")


def _value_of(impl):
    logits, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    return sigmoid_focal_loss(logits, labels, impl=impl).item()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("cross entropy", "Poly"),
        ("focal 1.7, smoothed", "FL*"),
        ("quality 1.5", "hinge"),
        ("varifocal", "focal 11"),
        ("aligned target", "soft target"),
        ("constant target", "soft target 2"),
        ("Gumbel", "Gumbel"),
        ("asymmetric", "asymmetric .5"),
        ("bins", "bins"),
    ],
)
def test_every_formula_compiles_for_a_gpu(positive, negative, compile_only):
    terms = Terms(TERMS[positive].positive, TERMS[negative].negative)
    kernel = compile_only(make_block((2, 3, 41), torch.float16), terms, torch.tensor(1.0))
    assert "cubin" in kernel.asm


@pytest.mark.slow
def test_the_count_of_norms_compiles_for_a_gpu(compiled):
    norm_counts_triton.count(make_block((2, 3, 41), torch.float16), 30)
    assert "cubin" in compiled.pop().asm


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gamma", "margin", "spared", "labels"])
def test_parameters_of_classes_compile_for_a_gpu(name, compile_only):
    slopes = torch.zeros(2, 3, dtype=torch.float64)
    block = make_block((2, 3, 41), torch.float16)
    kernel = compile_only(block, OF_CLASSES[name], torch.tensor(1.0), slopes)
    assert "cubin" in kernel.asm


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 80, 4200), (128, 80, 1)])
def test_sixteen_bytes_are_loaded_at_once(shape, dtype, compile_only):
    """The logits must allow it, including a level of 50 x 84, which is not a multiple of 16."""
    block, weights = make_block(shape, dtype)._replace(quality=None), torch.ones(80)
    kernel = compile_only(block, Terms(Focal(2.0), Focal(2.0), weights, weights), torch.ones(()))
    ptx = kernel.asm["ptx"]
    of_tile = 2048 // 128 * dtype.itemsize // 16
    assert len(re.findall(r"ld\.global(\.\w+)*\.v4\.b32", ptx)) >= of_tile
    assert len(re.findall(r"st\.global(\.\w+)*\.v4\.b32", ptx)) >= of_tile
    assert ".local" not in ptx  # no register spills


@pytest.mark.parametrize("rows", [False, True])
def test_tiles_fit_the_logits(rows):
    for num_anchors in (1, 5, 77, 273, 1050, 4200, 16800):
        for num_classes in (1, 3, 20, 80, 365, 1203):
            block_t, block_k = triton_loss.tile_of(num_anchors, num_classes, rows)
            assert block_t * block_k <= triton_loss.LOGITS_PER_TILE
            for width, length in ((block_t, num_anchors), (block_k, num_classes)):
                assert width & (width - 1) == 0
                assert 8 * (-length % width) <= length or width < 2 * length < 32


@needs_gpu
@layouts
@pytest.mark.parametrize("name", TERMS)
def test_on_a_gpu_it_equals_eager(name, layout):
    shape = (3000, 80, 1) if layout == "rows" else (3, 80, 1050)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        block = make_block(shape, dtype, device="cuda")
        for factor in (None, torch.tensor(0.3), torch.rand(block.labels.shape)):
            factor = factor if factor is None else factor.cuda()
            actual = triton_loss.evaluate(block, TERMS[name], factor)
            assert_equals_eager(actual, block, TERMS[name], factor)


@needs_gpu
@layouts
def test_on_a_gpu_a_nan_propagates(layout):
    test_a_nan_propagates(
        layout, lambda function, block, *args: function(_to_gpu(block), *map(_to_gpu, args))
    )


def _to_gpu(what):
    if isinstance(what, Block):
        return Block(*(x.cuda() for x in what))
    return what.cuda() if isinstance(what, torch.Tensor) else what


@needs_gpu
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_on_a_gpu_the_gradient_is_exact_to_the_last_bits(gamma):
    x = torch.linspace(-15, 15, 100_001, device="cuda")
    block = Block(x.view(1, 1, -1), torch.ones(1, len(x), dtype=torch.int32, device="cuda"), None)
    factor = torch.ones((), device="cuda")
    _, gradient = triton_loss.evaluate(block, Terms(Focal(gamma), Focal(gamma)), factor)
    p, q = torch.sigmoid(-x.double()), torch.sigmoid(x.double())
    ce = torch.nn.functional.softplus(x.double(), threshold=50)
    expected = q**gamma * (gamma * p * ce + q)
    torch.testing.assert_close(gradient.flatten().double(), expected, rtol=2e-6, atol=0)


def _gpu_levels():
    """Return outputs of a head (N, A * K, Hi, Wi) and labels (N, Hi, Wi, A)."""
    generator = torch.Generator("cuda").manual_seed(0)
    options = {"device": "cuda", "generator": generator}
    sizes = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
    outputs = [torch.randn(2, 720, *size, **options).requires_grad_() for size in sizes]
    labels = [torch.randint(-1, 81, (2, *size, 9), **options) for size in sizes]
    views = [x.view(2, 9, 80, *x.shape[2:]).permute(0, 3, 4, 1, 2) for x in outputs]
    return outputs, views, labels


@needs_gpu
def test_on_a_gpu_there_is_no_synchronization():
    outputs, views, labels = _gpu_levels()
    loss = SigmoidFocalLoss(impl="triton")
    scale = torch.tensor(0.01, device="cuda")

    def step():
        return torch.autograd.grad(loss.of_levels(views, labels, scale=scale), outputs)

    step()  # compiles the kernel
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        torch.autograd.grad(loss.of_levels(views, labels, scale=0.01), outputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_on_a_gpu_a_hundred_runs_give_the_same_bits():
    outputs, views, labels = _gpu_levels()
    loss = SigmoidFocalLoss(impl="triton")
    value = loss.of_levels(views, labels)
    gradients = torch.autograd.grad(value, outputs)
    for _ in range(100):
        again = loss.of_levels(views, labels)
        assert torch.equal(again, value)
        assert all(map(torch.equal, torch.autograd.grad(again, outputs), gradients))


@needs_gpu
@layouts
def test_on_a_gpu_there_can_be_more_logits_than_int32_can_count(layout):
    shape = (2**31 // 80 + 100, 80, 1) if layout == "rows" else (1, 2, 2**30 + 100)
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("it requires 20 GiB of GPU memory")
    logits = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    options = {"device": "cuda", "dtype": torch.int32}
    labels = torch.randint(-1, shape[1] + 1, (shape[0], shape[2]), **options)
    factor = torch.ones((), device="cuda")
    loss, gradient = triton_loss.evaluate(Block(logits, labels, None), FOCAL, factor)
    if layout == "rows":
        start, end = (slice(100), slice(None)), (slice(-100, None), slice(None))
    else:
        start, end = (slice(None), slice(100)), (slice(None), slice(-100, None))
    for part in (start, end):
        block = Block(logits[part[0], :, part[1]].contiguous(), labels[part].contiguous(), None)
        assert_equals_eager((loss[part], gradient[part[0], :, part[1]]), block, FOCAL, factor)
