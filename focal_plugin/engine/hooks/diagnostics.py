"""
Diagnostics of the anchors that contribute to loss and gradient.

`MODEL.FOCAL.DIAGNOSTICS.PERIOD` turns them on.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

from ...checks import check_count
from ...diagnostics.analysis import AnchorView, Tally
from ...diagnostics.positives import count_positives
from ...diagnostics.snapshot import Snapshot, write_snapshot
from ...modeling.dense_losses import DenseLossMixin, DenseStep
from ...run_folder import GRADIENT_NORM_KEY, snapshot_file
from ..model_trainer import ModelTrainer
from ..wrapping import unwrapped
from .fixed_anchors import (
    dense_parts,
    divisor_of,
    level_names,
    take_snapshots,
    view_step,
)
from .fixed_images import load_fixed_images
from .loss_recorder import LossRecorder, step_size_of

logger = logging.getLogger(__name__)

NUM_NORMS = 10
"""Number of initial iterations whose gradient norm a snapshot contains."""


class DiagnosticsHook(HookBase):
    """
    Hook that records the anchors that contribute to a detector's dense losses.

    It does not change the training, bit for bit.

    Every `MODEL.FOCAL.DIAGNOSTICS.PERIOD` iterations it writes into the event storage: the scalars
    of :func:`log_tally` and :func:`log_positives` for each dense part, and
    `diagnostics/parameter_gradient_norm`, the norm of all parameters' gradients together before
    clipping. It logs one line for the first iteration.

    It writes a :class:`Snapshot` of each dense part on fixed images into the folder `diagnostics`
    of `OUTPUT_DIR`: `start_<part>.npz` if the run starts at iteration 0, and `final_<part>.npz` at
    the end. At the same moments it writes `balance_start.json` and `balance_final.json`, the
    :class:`~focal_plugin.diagnostics.loss_balance.LossBalance` of all parts.

    At each evaluation of `TEST.EVAL_PERIOD` and at the end, it puts the losses on the fixed images
    into the event storage, see :func:`~focal_plugin.run_folder.validation_key`.

    With several processes each one requires this hook, because a loss may sum over processes. Only
    the main process writes.
    """

    trainer: ModelTrainer

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        key = "MODEL.FOCAL.DIAGNOSTICS.PERIOD"
        self._period = check_count(key, cfg.MODEL.FOCAL.DIAGNOSTICS.PERIOD, low=0)
        self._cfg = cfg
        self._folder = Path(cfg.OUTPUT_DIR)
        self._model = unwrapped(model)
        self._parts = dense_parts(self._model) if self._period else {}
        self._images: list[dict[str, Any]] = []
        self._losses = LossRecorder(cfg, self._model, self._images)
        self._start: dict[str, Snapshot] = {}
        self._norms: list[float] = []
        self._unwrap_optimizer: Callable[[], None] = lambda: None

    def before_train(self) -> None:
        if not self._period:
            return
        self._wrap_optimizer()
        if not self._parts:
            logger.info(
                "Diagnostics of this detector contain no anchors: its dense losses are "
                "Detectron2's, or the box loss is available as a sum only"
            )
        self._images = load_fixed_images(self._cfg)
        self._losses = LossRecorder(self._cfg, self._model, self._images)
        if not self._images:
            logger.info("No snapshots: DATASETS.TEST has no dataset with annotations")
        elif self.trainer.start_iter == 0:
            self._start = self._snapshots("start")
            for snapshot in self._start.values():
                logger.info(describe_start(snapshot))
            self._losses.write_balance("start", self.trainer.iter, puts_losses=False)

    def before_step(self) -> None:
        if not self._period:
            return
        if self._is_due() or self.trainer.iter == 0:
            for name, part in self._parts.items():
                part.observer = _Observer(name, part, stores=self._is_due())

    def after_step(self) -> None:
        for part in self._parts.values():
            part.observer = None
        if len(self._norms) == NUM_NORMS:
            self._add_norms()
        if self._images and self._is_evaluated():
            self._losses.put_losses(self.trainer.iter)

    def after_train(self) -> None:
        for part in self._parts.values():
            part.observer = None
        self._unwrap_optimizer()
        self._add_norms()
        if self._images and self.trainer.iter >= self.trainer.max_iter:  # otherwise it has failed
            self._snapshots("final")
            self._losses.write_balance("final", self.trainer.iter, puts_losses=True)

    def _is_due(self) -> bool:
        """Return True at the last iteration of a period, when Detectron2 writes its own metrics."""
        return (self.trainer.iter + 1) % self._period == 0

    def _is_evaluated(self) -> bool:
        """Return True at the iterations of an evaluation during training, as Detectron2 does."""
        period, done = self._cfg.TEST.EVAL_PERIOD, self.trainer.iter + 1
        return period > 0 and done % period == 0 and done != self.trainer.max_iter

    def _wrap_optimizer(self) -> None:
        """
        Measure the gradient norm before each step of the optimizer.

        There the gradients are complete, averaged over processes and unscaled. In newer versions
        of Detectron2, the optimizer's own hooks run after clipping.
        """
        optimizer = self.trainer.optimizer
        step = optimizer.step

        @functools.wraps(step)  # schedulers mark the function that they have wrapped
        def measured_step(*args: Any, **kwargs: Any) -> Any:
            self._measure_norm(optimizer)
            return step(*args, **kwargs)

        # Replaces a method on purpose, as learning rate schedulers do.
        def unwrap() -> None:
            optimizer.step = step  # type: ignore[method-assign]  # see above

        optimizer.step = measured_step  # type: ignore[method-assign]  # see above
        self._unwrap_optimizer = unwrap

    def _measure_norm(self, optimizer: torch.optim.Optimizer) -> None:
        if not (self._is_due() or self.trainer.iter < NUM_NORMS):
            return
        norm = gradient_norm(optimizer)
        if self.trainer.iter < NUM_NORMS:
            self._norms.append(norm)
        if self._is_due():
            _put(get_event_storage(), {GRADIENT_NORM_KEY: norm})

    def _snapshots(self, when: str) -> dict[str, Snapshot]:
        if not self._parts:
            return {}
        started = time.perf_counter()
        snapshots = take_snapshots(
            self._model,
            self._images,
            iteration=self.trainer.iter,
            batch_size=step_size_of(self._cfg),
        )
        for snapshot in snapshots.values():
            norms = self._start[snapshot.part].parameter_gradient_norms if self._start else None
            if norms is not None:
                snapshot = replace(snapshot, parameter_gradient_norms=norms)
            self._write(when, snapshot)
        logger.info(
            f"Diagnostics of {len(self._images)} fixed images at iteration {self.trainer.iter} "
            f"took {time.perf_counter() - started:.1f} s"
        )
        return snapshots

    def _add_norms(self) -> None:
        """Add the gradient norms to the start snapshots as soon as they are complete."""
        if not (self._norms and self._start):
            return
        norms, self._norms = np.array(self._norms), []
        for part, snapshot in self._start.items():
            self._start[part] = replace(snapshot, parameter_gradient_norms=norms)
            self._write("start", self._start[part])

    def _write(self, when: str, snapshot: Snapshot) -> None:
        if comm.is_main_process():
            write_snapshot(snapshot_file(self._folder, when, snapshot.part), snapshot)


class _Observer:
    """Observer of one dense part: stores the tallies of a step, and logs the first step."""

    def __init__(self, name: str, part: DenseLossMixin, *, stores: bool) -> None:
        self._name = name
        self._part = part
        self._stores = stores

    def __call__(self, step: DenseStep) -> None:
        view, tally = view_step(self._part, step)
        if get_event_storage().iter == 0:
            logger.info(describe_first_batch(self._name, tally))
        if self._stores:
            self._store(step, view, tally)

    def _store(self, step: DenseStep, view: AnchorView, tally: Tally) -> None:
        prefix = f"diagnostics/{self._name}"
        storage = get_event_storage()
        log_tally(storage, prefix, tally, level_names(self._part))
        num_classes = view.gradient.shape[-1]
        log_positives(storage, prefix, step, level_names(self._part), num_classes=num_classes)
        _put(storage, {f"{prefix}/divisor": divisor_of(self._part, step)})
        if comm.is_main_process():  # only its writers clear the histograms of the storage
            norms = view.gradient[step.kept_labels >= 0].flatten()
            storage.put_histogram(f"{prefix}/log10_gradient", _log10(norms))


def log_tally(storage: EventStorage, prefix: str, tally: Tally, levels: list[str]) -> None:
    """
    Log the statistics of one batch.

    In this order: the classification loss of positives and of negatives and the box loss, all
    normalized, in total and by level; the share of easy negatives, and their share of the
    classification loss and of the sum of gradient norms; that sum over positives and over
    negatives.

    Args:
        prefix: prefix of the names.
        levels: names of the feature levels.
    """
    # No name contains "loss": Detectron2 prints every such scalar in each log line.
    sums = {"cls_pos": "divided_pos", "cls_neg": "divided_neg", "box": "box_divided"}
    scalars = {name: tally.total(key) for name, key in sums.items()}
    for i, level in enumerate(levels):
        scalars |= {f"{level}/{name}": tally.by_level[key][i] for name, key in sums.items()}
    scalars |= {
        "easy_share": tally.easy_share,
        "easy_cls_share": tally.easy_loss_share,
        "easy_gradient_share": tally.easy_gradient_share,
        "gradient_pos": tally.total("gradient_pos"),
        "gradient_neg": tally.total("gradient_neg"),
    }
    _put(storage, {f"{prefix}/{name}": value for name, value in scalars.items()})


def log_positives(
    storage: EventStorage, prefix: str, step: DenseStep, levels: list[str], *, num_classes: int
) -> None:
    """
    Log the numbers of positive anchors that the assigner gives, before mining.

    In this order: the number on each level, and of each class that has one. If the objects are
    known: the mean over all objects, and the number of objects without a positive anchor.

    Args:
        prefix: prefix of the names.
        levels: names of the feature levels.
        num_classes: K.
    """
    targets = step.targets
    counts = count_positives(
        step.labels,
        targets.objects,
        num_classes=num_classes,
        sizes=[x.shape[1] for x in step.logits],
    )
    of_levels, of_classes = counts.of_levels.tolist(), counts.of_classes.tolist()
    scalars = {f"{x}/positives": n for x, n in zip(levels, of_levels, strict=True)}
    scalars |= {f"class_{k}/positives": n for k, n in enumerate(of_classes) if n}
    if counts.of_objects is not None and targets.num_unassigned is not None:
        missing = int(targets.num_unassigned.sum())
        num_objects = len(counts.of_objects) + missing
        if num_objects:
            scalars["positives_per_object"] = int(counts.of_objects.sum()) / num_objects
        scalars["objects_without_anchor"] = missing
    _put(storage, {f"{prefix}/{name}": value for name, value in scalars.items()})


def describe_start(snapshot: Snapshot) -> str:
    """
    Return one line about the loss at the initial weights.

    With a prior of 0.01, 100k anchors and 80 classes, cross entropy sums to 8e4 and focal loss to 6
    (arXiv:1708.02002 section 3.3).
    """
    s = snapshot
    return (
        f"{s.part} at iteration {s.iteration}: {s.num_anchors} anchors ({s.num_pos} positive) of "
        f"{s.num_images} images x {s.num_classes} classes, mean probability "
        f"{s.mean_probability:.3g}: {s.loss} sums to {s.loss_sum:.4g}, {s.loss_neg:.4g} of it from "
        f"negatives; per step it is {s.divided:.4g}. {s.easy_share:.1%} of the negatives are easy "
        f"and have {s.easy_loss_share:.1%} of the loss, {s.easy_gradient_share:.1%} of the gradient"
    )


def describe_first_batch(part: str, tally: Tally) -> str:
    """Return one line about the first batch of the run."""
    return (
        f"{part}, first batch: {tally.total('num_pos'):.0f} positives have "
        f"{tally.total('divided_pos'):.4g} of the classification loss of {tally.divided:.4g}, easy "
        f"negatives have {tally.easy_loss_share:.1%} of it and {tally.easy_gradient_share:.1%} of "
        f"the gradient; the box loss is {tally.total('box_divided'):.4g}"
    )


def gradient_norm(optimizer: torch.optim.Optimizer) -> float:
    """Return the norm of all gradients of the optimizer together; 0 if there are none."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norms = [p.grad.float().norm() for p in parameters if p.grad is not None]
    return torch.stack(norms).norm().item() if norms else 0.0


def _put(storage: EventStorage, scalars: dict[str, float]) -> None:
    for name, value in scalars.items():
        storage.put_scalar(name, value, smoothing_hint=False)


def _log10(norms: Tensor) -> Tensor:
    """Return log10 of the norms, clamped to the range of the histogram."""
    return norms.nan_to_num(nan=0.0).clamp(1e-12, 1e6).log10()
