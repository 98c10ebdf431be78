"""
Components of this package in the place of Detectron2's and fvcore's, for their own tests.

`check_upstream_tests.py` loads this module as a plugin of pytest. Two variables set it up:

    FOCAL_COMPONENTS   `ours`, or `stock` for a run without a substitution
    FOCAL_OUTCOMES     file that receives one JSON object for each test

No test sees the network. Models keep their random weights instead of those of the model zoo, and
any score counts as a detection. A random image replaces the sample image of COCO. Outcomes name
both replacements.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    StandardROIHeads,
)
from detectron2.utils import testing
from fvcore import nn as fvcore_nn
from torch import Tensor

from focal_plugin.env import setup_environment
from focal_plugin.losses import sigmoid_focal_loss, sigmoid_focal_star_loss
from focal_plugin.modeling import (
    FocalCascadeROIHeads,
    FocalFastRCNNConvFCHead,
    FocalFastRCNNOutputLayers,
    FocalRetinaNet,
    FocalROIHeads,
    FocalRPN,
)

CLASSES: dict[type, type] = {
    RetinaNet: FocalRetinaNet,
    RPN: FocalRPN,
    StandardROIHeads: FocalROIHeads,
    CascadeROIHeads: FocalCascadeROIHeads,
    FastRCNNConvFCHead: FocalFastRCNNConvFCHead,
    FastRCNNOutputLayers: FocalFastRCNNOutputLayers,
}
"""Detectron2's class -> ours."""

REGISTRIES = (
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
)

IMAGE_SIZE = (480, 640)
"""Height and width of the sample image, those of COCO's image 9."""


class Outcomes:
    """Outcome of each test, with the components and replacements that it used."""

    def __init__(self, file: Path) -> None:
        self.used: dict[str, None] = {}
        self.replaced: dict[str, None] = {}
        self._file = file

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.used.clear()
        self.replaced.clear()
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.write(report.nodeid, report.outcome, reason_of(report), report.duration)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.write(report.nodeid, "failed", last_line(report.longreprtext), 0.0)

    def write(self, name: str, outcome: str, reason: str, seconds: float) -> None:
        row = {
            "test": name,
            "outcome": outcome,
            "reason": reason,
            "seconds": seconds,
            "used": list(self.used),
            "replaced": list(self.replaced),
        }
        with self._file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Set up the substitution, and the record of outcomes."""
    with contextlib.suppress(ImportError):
        importlib.import_module("onnx.version")  # a test reads it, and onnx no longer imports it
    outcomes = Outcomes(Path(os.environ["FOCAL_OUTCOMES"]))
    config.pluginmanager.register(outcomes)
    names = stay_offline(outcomes)
    if os.environ["FOCAL_COMPONENTS"] == "ours":
        names |= substitute(outcomes)
    config.pluginmanager.register(Names(names))


class Names:
    """Substitution of names that a test module has imported."""

    def __init__(self, names: dict[Any, Any]) -> None:
        self._names = names

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for module in {getattr(item, "module", None) for item in items} - {None}:
            replace_names(vars(module), self._names)


def replace_names(namespace: dict[str, Any], names: dict[Any, Any]) -> None:
    """Replace each value of a module that is a key of ``names``."""
    for name, value in list(namespace.items()):
        if callable(value) and value.__hash__ is not None and value in names:
            namespace[name] = names[value]


def stay_offline(outcomes: Outcomes) -> dict[Any, Any]:
    """
    Replace what Detectron2's tests download.

    Returns:
        the functions to replace in test modules.
    """
    load = DetectionCheckpointer.load

    def load_files(self: DetectionCheckpointer, path: str, *args: Any, **kwargs: Any) -> Any:
        if "://" not in path:
            return load(self, path, *args, **kwargs)
        outcomes.replaced["random weights"] = None
        modules: Iterable[Any] = self.model.modules()
        for module in modules:
            if hasattr(module, "test_score_thresh"):
                module.test_score_thresh = 0.0
        return {}

    def sample_image(tensor: bool = True) -> Any:
        outcomes.replaced["random image"] = None
        generator = torch.Generator().manual_seed(0)
        image = torch.randint(0, 256, (3, *IMAGE_SIZE), generator=generator, dtype=torch.uint8)
        return image if tensor else image.permute(1, 2, 0).numpy()

    pytest.MonkeyPatch().setattr(DetectionCheckpointer, "load", load_files)
    return {testing.get_sample_coco_image: sample_image}


def substitute(outcomes: Outcomes) -> dict[Any, Any]:
    """
    Register our components under Detectron2's names.

    Returns:
        the classes and functions to replace in test modules.
    """
    setup_environment()
    for stock, ours in CLASSES.items():
        record_construction(ours, outcomes)
        for registry in REGISTRIES:
            if registry._obj_map.get(stock.__name__) is stock:
                registry._obj_map[stock.__name__] = ours
    focal, star = focal_loss(outcomes), focal_star_loss(outcomes)
    return {
        **CLASSES,
        fvcore_nn.sigmoid_focal_loss: focal,
        fvcore_nn.sigmoid_focal_loss_jit: focal,
        fvcore_nn.sigmoid_focal_loss_star: star,
        fvcore_nn.sigmoid_focal_loss_star_jit: star,
    }


def record_construction(component: type, outcomes: Outcomes) -> None:
    init = component.__init__  # type: ignore[misc]

    @functools.wraps(init)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        outcomes.used[component.__name__] = None
        init(self, *args, **kwargs)

    pytest.MonkeyPatch().setattr(component, "__init__", recorded)


def focal_loss(outcomes: Outcomes) -> Callable[..., Tensor]:
    return with_arguments_of_fvcore(sigmoid_focal_loss, outcomes, default_gamma=2)


def focal_star_loss(outcomes: Outcomes) -> Callable[..., Tensor]:
    return with_arguments_of_fvcore(sigmoid_focal_star_loss, outcomes, default_gamma=1, beta=0.0)


def with_arguments_of_fvcore(
    ours: Callable[..., Tensor], outcomes: Outcomes, *, default_gamma: float, **options: float
) -> Callable[..., Tensor]:
    """Return one of our losses with the arguments of fvcore's; ``options`` are those it lacks."""

    def loss(
        inputs: Tensor,
        targets: Tensor,
        alpha: float = -1,
        gamma: float = default_gamma,
        reduction: str = "none",
    ) -> Tensor:
        outcomes.used[ours.__name__] = None
        chosen = functools.partial(ours, alpha=alpha, gamma=gamma, **options)
        return reduce_loss(chosen, inputs, targets, reduction)

    return loss


def reduce_loss(
    loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor, reduction: str
) -> Tensor:
    """
    Return one of our sums as fvcore's loss returns it.

    Args:
        inputs: (...), logits.
        targets: (...), 1 for the class and 0 for the background.
        reduction: "none", "mean" or "sum".
    """
    labels = (targets == 0).long().flatten()  # one class, so 1 is the background
    logits = inputs.reshape(-1, 1)
    if reduction == "none":
        pairs: Iterable[tuple[Tensor, Tensor]] = zip(logits.split(1), labels.split(1), strict=True)
        return torch.stack([loss(x, y) for x, y in pairs]).reshape(inputs.shape)
    total = loss(logits, labels)
    return total / inputs.numel() if reduction == "mean" else total


def reason_of(report: pytest.TestReport) -> str:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return last_line(report.longreprtext) if report.failed else ""


def last_line(text: str) -> str:
    """Return the message of an error, which pytest marks with E."""
    marked = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return (marked or text.strip().splitlines() or ["no message"])[0]
