"""tools/check_upstream_tests.py runs the tests of a library on our components."""

import itertools

import pytest
import torch
from detectron2.modeling import RetinaNet
from fvcore.nn import sigmoid_focal_loss, sigmoid_focal_loss_star

from .tools import load_tool

tool = load_tool("check_upstream_tests")
components = load_tool("upstream_components")

UPSTREAM = """
import unittest
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.proposal_generator import RPN, build_proposal_generator
from detectron2.utils.testing import get_sample_coco_image
from fvcore.nn import sigmoid_focal_loss
import torch

SHAPE = {"res4": ShapeSpec(channels=4, stride=16)}

class Upstream(unittest.TestCase):
    def test_name(self):
        assert type(RPN(get_cfg(), SHAPE)).__name__ in ("RPN", "FocalRPN")

    def test_registry(self):
        build_proposal_generator(get_cfg(), SHAPE)

    def test_loss(self):
        loss = sigmoid_focal_loss(torch.zeros(2), torch.tensor([0.0, 1.0]), reduction="sum")
        assert abs(loss.item() - 2 * 0.25 * 0.693147) < 1e-4

    def test_that_only_stock_passes(self):
        assert type(build_proposal_generator(get_cfg(), SHAPE)).__name__ == "RPN"

    def test_that_nobody_passes(self):
        assert False, "the test itself is wrong"

    def test_without_components(self):
        pass

    def test_download(self):
        model = RPN(get_cfg(), SHAPE)
        assert DetectionCheckpointer(model).load("detectron2://nowhere/model.pkl") == {}
        assert get_sample_coco_image().shape == (3, 480, 640)

    @unittest.skipIf(True, "CUDA unavailable")
    def test_cuda(self):
        pass
"""
EXPECTED = {
    "test_name": ("passed", "passed", ("FocalRPN",), ()),
    "test_registry": ("passed", "passed", ("FocalRPN",), ()),
    "test_loss": ("passed", "passed", ("sigmoid_focal_loss",), ()),
    "test_that_only_stock_passes": ("passed", "failed", ("FocalRPN",), ()),
    "test_that_nobody_passes": ("failed", "failed", (), ()),
    "test_without_components": ("passed", "passed", (), ()),
    "test_download": ("passed", "passed", ("FocalRPN",), ("random weights", "random image")),
    "test_cuda": ("skipped", "skipped", (), ()),
}


@pytest.fixture
def checkout(tmp_path):
    for folder in ("fvcore", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tests/test_focal_loss.py").write_text(UPSTREAM)
    return tmp_path


@pytest.mark.slow
def test_each_test_runs_with_stock_and_with_ours(checkout, capsys):
    pairs = tool.run_file(checkout, "tests/test_focal_loss.py", "")
    found = {
        pair.test.rpartition("::")[2]: (
            pair.stock.outcome,
            pair.ours.outcome,
            pair.ours.used,
            pair.ours.replaced,
        )
        for pair in pairs
    }
    assert found == EXPECTED
    assert not any(pair.stock.used for pair in pairs)
    assert [x.test.rpartition("::")[2] for x in pairs if x.is_regression] == [
        "test_that_only_stock_passes"
    ]
    notes = {pair.test.rpartition("::")[2]: pair.cells()[-1] for pair in pairs}
    assert notes["test_cuda"] == "CUDA unavailable"
    assert "the test itself is wrong" in notes["test_that_nobody_passes"]
    assert notes["test_download"] == "random weights; random image"
    assert [file.name for file in checkout.rglob("*") if file.is_file()] == ["test_focal_loss.py"]


@pytest.mark.slow
def test_a_file_that_cannot_be_imported_is_a_failure(checkout, capsys):
    (checkout / "tests/test_focal_loss.py").write_text("import a_module_that_nobody_has\n")
    assert tool.main([str(checkout)]) == 1
    printed = capsys.readouterr().out
    assert "No module named 'a_module_that_nobody_has'" in printed
    assert "0 tests used our components: none" in printed


def test_a_folder_other_than_a_checkout_is_refused(tmp_path, capsys):
    assert tool.main([str(tmp_path)]) == 2
    assert "has none of the tests" in capsys.readouterr().out


def test_a_part_of_a_path_selects_files(checkout, capsys):
    assert tool.files_of(checkout) == ["tests/test_focal_loss.py"]
    assert tool.main([str(checkout), "--file", "modeling"]) == 2


def outcomes(*names):
    return [tool.Outcome(name) for name in names]


@pytest.mark.parametrize(
    ("stock", "ours", "regression", "shown"),
    [
        ("passed", "passed", False, False),
        ("passed", "failed", True, True),
        ("passed", "skipped", True, True),
        ("passed", "absent", True, True),
        ("failed", "failed", False, True),
        ("failed", "passed", False, True),
        ("skipped", "skipped", False, True),
    ],
)
def test_only_what_stock_passes_can_regress(stock, ours, regression, shown):
    pair = tool.Pair("test", *outcomes(stock, ours))
    assert (pair.is_regression, pair.is_shown) == (regression, shown)


def test_a_test_with_our_components_is_shown_and_counted():
    used = tool.Outcome("passed", used=("FocalRPN",))
    pairs = [
        tool.Pair("a", tool.Outcome("passed"), used),
        tool.Pair("b", *outcomes("passed", "passed")),
        tool.Pair("c", *outcomes("skipped", "skipped")),
    ]
    assert [pair.is_shown for pair in pairs] == [True, False, True]
    assert tool.summary(pairs).splitlines() == [
        "1 tests used our components: 1 passed",
        "2 tests did not: 1 passed, 1 skipped",
        "0 tests pass with stock and not with ours; 0 more are known to differ",
    ]


def test_a_known_difference_is_no_regression_but_is_shown():
    known = next(iter(tool.KNOWN))
    pair = tool.Pair(known, *outcomes("passed", "failed"))
    assert (pair.is_regression, pair.is_shown) == (False, True)
    assert pair.cells()[-1] == tool.LAST_BIT
    assert tool.summary([pair]).endswith("with ours; 1 more are known to differ")
    assert tool.Pair(known, *outcomes("passed", "passed")).cells()[-1] == ""


def recorder(tmp_path):
    return components.Outcomes(tmp_path / "outcomes.jsonl")


REDUCTIONS = ("none", "mean", "sum")


@pytest.mark.parametrize(
    ("adapter", "stock"),
    [
        (components.focal_loss, sigmoid_focal_loss),
        (components.focal_star_loss, sigmoid_focal_loss_star),
    ],
)
@pytest.mark.parametrize(
    ("alpha", "gamma", "reduction"), itertools.product((-1, 0, 0.25, 1), (1, 2), REDUCTIONS)
)
def test_the_adapters_have_the_interface_and_values_of_fvcore(
    tmp_path, adapter, stock, alpha, gamma, reduction
):
    outcomes = recorder(tmp_path)
    ours = adapter(outcomes)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, generator=generator) * 4
    targets = torch.randint(0, 2, (2, 3, 4), generator=generator).float()
    options = {"alpha": alpha, "gamma": gamma, "reduction": reduction}
    expected = stock(logits, targets, **options)
    torch.testing.assert_close(ours(logits, targets, **options), expected, rtol=1e-5, atol=1e-6)
    assert len(outcomes.used) == 1


def test_names_of_a_module_are_replaced_by_identity():
    class Unhashable:
        __hash__ = None

        def __call__(self):
            pass

    unhashable = Unhashable()
    namespace = {"Detector": RetinaNet, "other": 1, "list": [RetinaNet], "x": unhashable}
    components.replace_names(namespace, {RetinaNet: "ours", 1: "never"})
    assert namespace == {"Detector": "ours", "other": 1, "list": [RetinaNet], "x": unhashable}


def test_only_the_message_of_an_error_is_kept():
    text = "def test():\n>  f()\nE   ValueError: wrong\nE     more\n\nfile.py:1: ValueError"
    assert components.last_line(text) == "ValueError: wrong"
    assert components.last_line("") == "no message"
