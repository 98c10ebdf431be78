"""Detectron2's default trainer with safe interruption and protection against NaNs."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from ..data.loading.image_cache import build_train_mapper
from ..data.loading.stream import build_train_loader
from ..modeling import knows_crowds, loses_crowds
from ..random_state import seed_all
from ..run_folder import DETECTIONS_FOLDER
from .amp import amp_precision
from .checkpoints.checkpointer import Checkpointer
from .checkpoints.identity import run_identity
from .evaluation import build_coco_evaluator
from .finite import check_solver
from .hooks.diagnostics import DiagnosticsHook
from .hooks.run_record import RunRecordHook
from .hooks.stopping import StopHook
from .initial_weights import build_initialized
from .nonfinite import (
    GuardedAMPTrainer,
    GuardedBFloat16Trainer,
    GuardedTrainer,
    StepGuard,
)

logger = logging.getLogger(__name__)

_STOCK_SAVES_OPTIMIZER = "state_dict" in vars(DefaultTrainer)  # not in Detectron2 0.6


class Trainer(DefaultTrainer):
    """
    Default trainer with COCO evaluation, exact resumption and protection against NaNs.

    It has the interface of :class:`detectron2.engine.DefaultTrainer`. Every dataset is evaluated as
    COCO boxes, by the fastest installed implementation. A detector that supports crowd regions
    receives those of its training images. `MODEL.FOCAL.INIT` sets the initialization. A run records
    its environment and its initial state.

    A resumed run ends as an uninterrupted one, bit for bit. The random draws of a step depend on
    the seed and the number of the step, and a checkpoint holds all other state. A step whose loss
    or gradient is not finite never changes the weights. SIGTERM and SIGUSR1 end a run after a
    checkpoint. Several processes can also train on the CPU. With `SOLVER.AMP.ENABLED` the
    precision is `MODEL.FOCAL.AMP.PRECISION`.

    Args:
        cfg: with a `SEED` >= 0.
        checkpoint_options: options of
            :class:`~focal_plugin.engine.checkpoints.checkpointer.Checkpointer`.
    """

    # The first three belong to the inner trainer.
    model: nn.Module
    optimizer: torch.optim.Optimizer
    data_loader: Any
    checkpointer: Checkpointer
    _trainer: GuardedTrainer | GuardedAMPTrainer

    def __init__(self, cfg: CfgNode, **checkpoint_options: Any) -> None:
        # Detectron2's constructor, step by step: it does not support another inner trainer or
        # checkpointer, and it ties DistributedDataParallel to a GPU.
        super(DefaultTrainer, self).__init__()
        if cfg.SEED < 0:
            raise ValueError(f"Trainer requires SEED >= 0, got {cfg.SEED}; settle_seed draws one")
        check_solver(cfg)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        devices = {} if cfg.MODEL.DEVICE != "cpu" else {"device_ids": None}
        model = create_ddp_model(model, broadcast_buffers=False, **devices)
        trainer = {
            None: GuardedTrainer,
            torch.float16: GuardedAMPTrainer,
            torch.bfloat16: GuardedBFloat16Trainer,
        }[amp_precision(cfg)]
        self._trainer = trainer(model, data_loader, optimizer)
        this = weakref.proxy(self)
        self._trainer.guard = StepGuard(
            cfg, model, roll_back=lambda: this.roll_back(), seed=lambda: this.seed_of_step()
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(
            model, cfg.OUTPUT_DIR, identity=run_identity(cfg), trainer=this, **checkpoint_options
        )
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        return build_initialized(cfg, super().build_model)

    def build_hooks(self) -> list[HookBase | None]:
        ours: list[HookBase] = [DiagnosticsHook(self.cfg, self.model)]
        if comm.is_main_process():
            ours.append(RunRecordHook(self.cfg))
        # Detectron2's last hook writes all measurements; a run stops after that.
        return [*ours, *self._stock_hooks(), StopHook(self.checkpointer)]

    def _stock_hooks(self) -> list[HookBase | None]:
        """Return Detectron2's hooks, but let every process take part in a checkpoint."""
        stock = super().build_hooks()
        if not comm.is_main_process():
            evaluation = next(i for i, hook in enumerate(stock) if isinstance(hook, hooks.EvalHook))
            period = self.cfg.SOLVER.CHECKPOINT_PERIOD
            stock.insert(evaluation, hooks.PeriodicCheckpointer(self.checkpointer, period))
        return stock

    def resume_or_load(self, resume: bool = True) -> None:
        """
        Resume from the last checkpoint, or load the weights of the config.

        Raises:
            CheckpointError: the checkpoint is damaged or belongs to another run.
        """
        super().resume_or_load(resume)
        self.data_loader.start_batch = self.start_iter
        for hook in self._hooks:
            if isinstance(hook, hooks.PreciseBN) and not hook._disabled and hook._period > 0:
                done = self.start_iter // hook._period
                hook._data_loader.start_batch = done * hook._num_iter

    def roll_back(self) -> bool:
        """
        Load weights and optimizer of the last periodic checkpoint, and continue from there.

        A checkpoint that a signal asked for does not count, so that an interrupted run goes back as
        far as an uninterrupted one.

        Returns:
            True if there is a periodic checkpoint.
        """
        period = self.cfg.SOLVER.CHECKPOINT_PERIOD
        iteration = self.iter // period * period - 1
        file = Path(self.cfg.OUTPUT_DIR) / f"model_{iteration:07d}.pth"
        if not file.is_file():
            return False
        others = self.checkpointer.load(str(file), checkpointables=[])
        self.optimizer.load_state_dict(others["trainer"]["_trainer"]["optimizer"])
        return True

    def seed_of_step(self) -> tuple[int | str, ...]:
        """Return the seed of the random draws of this step in this process."""
        return self.cfg.SEED, "step", self.iter, comm.get_rank()

    def before_step(self) -> None:
        seed_all(*self.seed_of_step())
        super().before_step()

    def after_train(self) -> None:
        """Call all hooks; an earlier failure is not hidden by an error in a hook."""
        failure = sys.exc_info()[1]
        self.storage.iter = self.iter
        for hook in self._hooks:
            if failure is None:
                hook.after_train()
            elif not isinstance(hook, hooks.EvalHook):
                try:
                    hook.after_train()
                except Exception as error:
                    logger.warning(f"{type(hook).__name__} could not finish: {error}")

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if not _STOCK_SAVES_OPTIMIZER:
            state["_trainer"] = self._trainer.state_dict()
        state["nonfinite"] = self._trainer.guard.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if not _STOCK_SAVES_OPTIMIZER:
            self._trainer.load_state_dict(state_dict["_trainer"])
        self._trainer.guard.load_state_dict(state_dict["nonfinite"])

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        if loses_crowds(cfg):
            logger.warning(
                f"MODEL.FOCAL.RPN uses crowd regions, but {cfg.MODEL.ROI_HEADS.NAME} would treat "
                "them as objects, so they are not loaded. FocalROIHeads supports them"
            )
        return build_train_loader(cfg, build_train_mapper(cfg, crowds=knows_crowds(cfg)))

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        folder = output_folder or str(Path(cfg.OUTPUT_DIR) / DETECTIONS_FOLDER)
        return build_coco_evaluator(dataset_name, folder)
