"""Recorder of the losses on fixed images: into the event storage, and their balance into a file."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from ...diagnostics.loss_balance import LossBalance, write_balance
from ...run_folder import balance_file, validation_key
from .fixed_losses import FixedLosses, measure_losses, shared_parts

logger = logging.getLogger(__name__)


def step_size_of(cfg: CfgNode) -> int:
    """Return the images of a training step of one process."""
    return max(cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(), 1)


class LossRecorder:
    """
    Recorder of the losses on fixed images.

    It does not change the training, bit for bit. With several processes each one requires it, and
    all must call its methods together. Only the main process writes. It records nothing of a model
    that is no RetinaNet or R-CNN, or that has diverged.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, images: Sequence[dict[str, Any]]) -> None:
        self._folder = Path(cfg.OUTPUT_DIR)
        self._model = model
        self._images = images
        self._batch_size = step_size_of(cfg)
        self._measures = bool(images and shared_parts(model))

    def put_losses(self, iteration: int) -> None:
        """Measure the losses, and put them into the event storage."""
        _put(self._measure(iteration, with_balance=False))

    def write_balance(self, when: str, iteration: int, *, puts_losses: bool) -> None:
        """Measure the losses, write the balance of their gradients, and put them if requested."""
        found = self._measure(iteration, with_balance=True)
        if found.balance and comm.is_main_process():
            balance = LossBalance(
                iteration=iteration,
                num_images=len(self._images),
                batch_size=self._batch_size,
                parts=found.balance,
            )
            write_balance(balance_file(self._folder, when), balance)
        if puts_losses:
            _put(found)

    def _measure(self, iteration: int, *, with_balance: bool) -> FixedLosses:
        if not self._measures:
            return FixedLosses({}, {})
        started = time.perf_counter()
        try:
            found = measure_losses(
                self._model, self._images, batch_size=self._batch_size, with_balance=with_balance
            )
        except FloatingPointError as error:
            logger.warning(f"No losses on fixed images at iteration {iteration}: {error}")
            return FixedLosses({}, {})
        logger.info(
            f"Losses on {len(self._images)} fixed images at iteration {iteration} took "
            f"{time.perf_counter() - started:.1f} s"
        )
        return found


def _put(found: FixedLosses) -> None:
    for name, loss in found.losses.items():
        get_event_storage().put_scalar(validation_key(name), loss, smoothing_hint=False)
