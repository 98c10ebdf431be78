"""
Losses of a detector on fixed images, and the balance of their gradients.

The losses are those that a training step sums: divided by the normalizers, weighted and balanced.
Detectors with Detectron2's own losses have them, too.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.modeling import RetinaNet
from detectron2.modeling.proposal_generator import RPN
from torch import Tensor, nn

from ...diagnostics.loss_balance import GradientNorms
from ...modeling.balance import SharedFeatures, last_shared_features, square_of_gradient
from .fixed_images import batches_of, measuring

TOTAL = "total_loss"
"""Name of the sum of all losses, as Detectron2 logs it."""


class SharedPart(NamedTuple):
    """Part of a detector with a classification loss and a box loss on shared features."""

    features: list[SharedFeatures]  # one recorder per stage of a cascade
    cls: str  # name of the classification loss; the stages of a cascade add "_stage0", ...
    box: str


class FixedLosses(NamedTuple):
    """Losses on fixed images."""

    losses: dict[str, float]  # name -> mean over the batches, with :data:`TOTAL`
    balance: dict[str, GradientNorms]  # part -> norms; {} if they are not measured


def shared_parts(model: nn.Module) -> dict[str, SharedPart]:
    """Return the parts of a RetinaNet or R-CNN by name; {} for any other model."""
    rpn = getattr(model, "proposal_generator", None)
    predictor = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    parts = {}
    if isinstance(model, RetinaNet):
        features = [last_shared_features(model.head)]
        parts["retinanet"] = SharedPart(features, "loss_cls", "loss_box_reg")
    if isinstance(rpn, RPN):
        features = [last_shared_features(rpn.rpn_head)]
        parts["rpn"] = SharedPart(features, "loss_rpn_cls", "loss_rpn_loc")
    if isinstance(predictor, nn.Module):
        stages = [*predictor] if isinstance(predictor, nn.ModuleList) else [predictor]
        features = [SharedFeatures(stage, of_input=True) for stage in stages]
        parts["roi_heads"] = SharedPart(features, "loss_cls", "loss_box_reg")
    return parts


def measure_losses(
    model: nn.Module,
    images: Sequence[dict[str, Any]],
    *,
    batch_size: int,
    with_balance: bool = False,
) -> FixedLosses:
    """
    Measure the losses, and on request the gradient norms of both losses of each part.

        norm = sqrt(mean over batches of |d loss / dz|^2)

    z are the last features that both losses share, of all levels, stages and RoIs of a batch. The
    graph begins behind the backbone, and holds one batch at a time.

    No weight, buffer, mode, gradient or random generator changes. With several processes all of
    them must call this function, because a loss may sum over processes.

    Args:
        images: at least one, the same in every process.
        batch_size: images per batch, as in a training step of one process.
        with_balance: True for the gradient norms. A part without both losses has none.

    Raises:
        FloatingPointError: the detector has diverged.
    """
    parts = shared_parts(model) if with_balance else {}
    losses: dict[str, list[float]] = {}
    squares: dict[str, list[tuple[float, float]]] = {}
    for batch in batches_of(images, batch_size):
        with measuring(model), _recording(model, parts):
            found = model(batch)
            for name, part in parts.items():
                of_part = _squares(part, found)
                if of_part is not None:
                    squares.setdefault(name, []).append(of_part)
            values = {name: loss.item() for name, loss in found.items()}
            for name, value in {**values, TOTAL: sum(values.values())}.items():
                losses.setdefault(name, []).append(value)
            del found  # and with it the graph, before the next batch
    return FixedLosses(
        {name: sum(of_loss) / len(of_loss) for name, of_loss in losses.items()},
        {name: _norms(of_part) for name, of_part in squares.items()},
    )


@contextlib.contextmanager
def _recording(model: nn.Module, parts: Mapping[str, SharedPart]) -> Iterator[None]:
    """Record the shared features of the parts with their graph; without parts, no graph."""
    if not parts:
        with torch.no_grad():
            yield
        return
    recorders = [recorder for part in parts.values() for recorder in part.features]
    with torch.enable_grad(), _backbone_without_graph(model):
        for recorder in recorders:
            recorder.attach(True)
        try:
            yield
        finally:
            for recorder in recorders:
                recorder.attach(False)
                recorder.take()


@contextlib.contextmanager
def _backbone_without_graph(model: nn.Module) -> Iterator[None]:
    """Let the graph begin at the output of the backbone, whose own graph takes most memory."""
    backbone = model.backbone
    assert isinstance(backbone, nn.Module)
    forward: Callable[..., dict[str, Tensor]] = backbone.forward

    def forward_without_graph(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
        with torch.no_grad():
            features = forward(*args, **kwargs)
        return {name: feature.requires_grad_() for name, feature in features.items()}

    own = vars(backbone).get("forward")
    backbone.forward = forward_without_graph
    try:
        yield
    finally:
        if own is None:
            del backbone.forward
        else:
            backbone.forward = own


def _squares(part: SharedPart, losses: Mapping[str, Tensor]) -> tuple[float, float] | None:
    """Return the squared gradient norms of a batch, or None if the part lacks one of the losses."""
    features = [feature for recorder in part.features for feature in recorder.take()]
    found = []
    for name in (part.cls, part.box):
        terms = [x for key, x in losses.items() if key == name or key.startswith(f"{name}_stage")]
        if not terms:
            return None
        found.append(square_of_gradient(torch.stack(terms).sum(), features).item())
    of_cls, of_box = found
    return of_cls, of_box


def _norms(squares: Sequence[tuple[float, float]]) -> GradientNorms:
    norms = [math.sqrt(sum(x) / len(x)) for x in zip(*squares, strict=True)]
    of_cls, of_box = (norm if math.isfinite(norm) else None for norm in norms)
    return GradientNorms(of_cls, of_box)
