"""The examples run, and print what they claim."""

import importlib.util
import re

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from focal_plugin.losses import CLS_LOSS_REGISTRY

from .conftest import ROOT


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def registry(monkeypatch):
    """Return the registry of losses, and remove the test's registrations afterwards."""
    monkeypatch.setattr(CLS_LOSS_REGISTRY, "_obj_map", dict(CLS_LOSS_REGISTRY))
    return CLS_LOSS_REGISTRY


@pytest.fixture
def my_loss(registry):
    yield load("my_loss")
    for catalog in (DatasetCatalog, MetadataCatalog):
        if "my_shapes" in catalog.list():
            catalog.remove("my_shapes")


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


def test_a_loss_from_outside_the_package_trains_by_its_name(my_loss, tmp_path):
    trainer = my_loss.main(tmp_path)
    assert trainer.iter == 2
    assert (tmp_path / "model_final.pth").exists()
    losses = [
        part for part in trainer.model.modules() if isinstance(part, my_loss.SigmoidPowerLoss)
    ]
    assert [loss.power for loss in losses] == [2.0]


def test_the_loss_from_outside_the_package_is_its_formula(my_loss, registry):
    logits = torch.randn(6, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 3, -1])
    targets = torch.nn.functional.one_hot(labels[:5], 4)[:, :3].double()
    p = logits[:5].double().sigmoid()
    expected = ((targets - p).abs() ** 3).sum()
    loss = registry.get("SigmoidPowerLoss")(power=3.0)(logits, labels)
    torch.testing.assert_close(loss, expected.float())
    (slope,) = torch.autograd.grad(loss, logits)
    (expected_slope,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(slope, expected_slope)
