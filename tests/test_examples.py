"""The examples run, and print what they claim."""

import importlib.util
import re

import pytest
import torch

from focal_plugin.compare.plan.spec import load_spec
from focal_plugin.components import GROUP, import_components
from focal_plugin.losses import CLS_LOSS_REGISTRY

from .conftest import ROOT
from .registrations import registrations_kept

EXAMPLE = ROOT / "examples" / "my_losses"


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_focal_loss_takes_the_total_away_from_easy_examples(capsys):
    load("focal_loss_alone").main()
    rows = re.findall(r"^(.+?) +([\d.e-]+) +([\d.e-]+) +([\d.]+)%$", capsys.readouterr().out, re.M)
    cross_entropy, focal = ([float(cell) for cell in row[1:]] for row in rows)
    p_t = torch.tensor([-5.0, 5.0], dtype=torch.float64).sigmoid()  # the hard one, an easy one
    expected = -p_t.log()
    assert cross_entropy[:2] == pytest.approx(expected.tolist(), rel=1e-3)
    expected = torch.tensor([0.25, 0.75]) * (1 - p_t) ** 2 * expected
    assert focal[:2] == pytest.approx(expected.tolist(), rel=1e-3)
    assert cross_entropy[2] > 99
    assert focal[2] < 2


@pytest.fixture
def my_losses():
    with registrations_kept(EXAMPLE):
        import_components([str(EXAMPLE / "my_losses.py")])
        yield


@pytest.mark.parametrize(
    ("name", "options", "power"),
    [("SquaredErrorLoss", {"factor": 1.0}, 2.0), ("SigmoidPowerLoss", {"power": 3.0}, 3.0)],
)
def test_the_losses_are_their_formulas(my_losses, name, options, power):
    logits = torch.randn(6, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 3, -1])
    targets = torch.nn.functional.one_hot(labels[:5], 4)[:, :3].double()
    p = logits[:5].double().sigmoid()
    expected = ((targets - p).abs() ** power).sum()
    loss = CLS_LOSS_REGISTRY.get(name)(**options)(logits, labels)
    torch.testing.assert_close(loss, expected.float())
    (slope,) = torch.autograd.grad(loss, logits)
    (expected_slope,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(slope, expected_slope)


def test_the_comparison_has_its_arms_and_their_module(my_losses):
    comparison = load_spec(EXAMPLE / "comparison.yaml")
    assert comparison.arms == ("focal loss", "squared error", "power 3")
    assert {run.imports for run in comparison.runs} == {(str(EXAMPLE / "my_losses.py"),)}


def test_the_package_has_an_entry_point_of_our_group():
    text = (EXAMPLE / "pyproject.toml").read_text()
    assert f'[project.entry-points."{GROUP}"]\nmy_losses = "my_losses"\n' in text


def test_the_page_shows_the_loss_as_it_is():
    page = (ROOT / "docs/components.md").read_text()
    (block,) = re.findall(r"```python\n(@CLS_LOSS_REGISTRY.*?)```", page, re.DOTALL)
    assert block in (EXAMPLE / "my_losses.py").read_text()
