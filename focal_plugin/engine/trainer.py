"""Detectron2's default trainer with safe interruption and protection against NaNs."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from ..data.loading.image_cache import build_train_mapper
from ..data.loading.stream import build_train_loader
from ..modeling import build_tta, check_tta, key_of_crowds, knows_crowds, loses_crowds
from ..random_state import seed_all
from ..run_folder import detections_folder
from .amp import amp_precision
from .checkpoints.checkpointer import Checkpointer
from .checkpoints.identity import run_identity
from .evaluation import build_coco_evaluator
from .finite import check_solver
from .hooks.diagnostics import DiagnosticsHook
from .hooks.run_record import RunRecordHook
from .hooks.stopping import StopHook
from .initial_weights import build_initialized
from .logs import prints_in_log_file
from .nonfinite import (
    GuardedAMPTrainer,
    GuardedBFloat16Trainer,
    GuardedTrainer,
    StepGuard,
)
from .partial_labels import check_partial_labels
from .unread_keys import RecordingCfgNode, warn_of_unread

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
    _last_eval_results: dict[str, Any]

    def __init__(self, cfg: CfgNode, **checkpoint_options: Any) -> None:
        # Detectron2's constructor, step by step: it does not support another inner trainer or
        # checkpointer, and it ties DistributedDataParallel to a GPU.
        super(DefaultTrainer, self).__init__()
        if cfg.SEED < 0:
            raise ValueError(f"Trainer requires SEED >= 0, got {cfg.SEED}; settle_seed draws one")
        check_solver(cfg)
        cfg = RecordingCfgNode.of(self.auto_scale_workers(cfg, comm.get_world_size()))
        self.cfg = cfg
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        check_partial_labels(cfg, getattr(data_loader, "num_partly_labeled", 0))
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
            model,
            cfg.OUTPUT_DIR,
            identity=run_identity(cfg),
            class_names=cfg.MODEL.FOCAL.CLASS_NAMES,
            trainer=this,
            **checkpoint_options,
        )
        self.register_hooks(self.build_hooks())
        warn_of_unread(cfg)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        check_tta(cfg)
        return build_initialized(cfg, super().build_model)

    def build_hooks(self) -> list[HookBase | None]:
        ours: list[HookBase] = [DiagnosticsHook(self.cfg, self.model)]
        if comm.is_main_process():
            ours.append(RunRecordHook(self.cfg))
        # Detectron2's last hook writes all measurements; a run stops after that.
        return [*ours, *self._stock_hooks(), StopHook(self.checkpointer)]

    def _stock_hooks(self) -> list[HookBase | None]:
        """
        Return Detectron2's hooks, with two additions.

        Every process takes part in a checkpoint. After the last evaluation follows the one with
        test-time augmentation, if it is enabled.
        """
        stock = super().build_hooks()
        evaluation = next(i for i, hook in enumerate(stock) if isinstance(hook, hooks.EvalHook))
        if self.cfg.TEST.AUG.ENABLED:
            stock.insert(evaluation + 1, hooks.EvalHook(0, self._test_augmented))
        if not comm.is_main_process():
            period = self.cfg.SOLVER.CHECKPOINT_PERIOD
            stock.insert(evaluation, hooks.PeriodicCheckpointer(self.checkpointer, period))
        return stock

    def _test_augmented(self) -> dict[str, Any]:
        results = self.test_augmented(self.cfg, self.model)
        self._last_eval_results = _merged(self._last_eval_results, results)
        return results

    def resume_or_load(self, resume: bool = True) -> None:
        """
        Resume from the last checkpoint, or load the weights of the config.

        Raises:
            CheckpointError: the checkpoint is damaged or belongs to another run.
        """
        super().resume_or_load(resume)
        if not (self.cfg.MODEL.WEIGHTS or (resume and self.checkpointer.has_checkpoint())):
            self._warn_of_frozen_noise()
        self.data_loader.start_batch = self.start_iter
        for hook in self._hooks:
            if isinstance(hook, hooks.PreciseBN) and not hook._disabled and hook._period > 0:
                done = self.start_iter // hook._period
                hook._data_loader.start_batch = done * hook._num_iter

    def _warn_of_frozen_noise(self) -> None:
        frozen = [name for name, p in self.model.named_parameters() if not p.requires_grad]
        if frozen:
            logger.warning(
                f"{len(frozen)} frozen tensors keep their random values, such as {frozen[0]}: set "
                "MODEL.BACKBONE.FREEZE_AT 0, or MODEL.WEIGHTS to trained weights"
            )

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
        _warn_of_ignore_regions(cfg)
        return build_train_loader(cfg, build_train_mapper(cfg, crowds=knows_crowds(cfg)))

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        own = Path(cfg.OUTPUT_DIR) / detections_folder(dataset_name, cfg.DATASETS.TEST)
        return build_coco_evaluator(
            dataset_name, output_folder or str(own), cfg.TEST.KEYPOINT_OKS_SIGMAS
        )

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None
    ) -> dict[str, dict[str, Any]]:
        """
        Evaluate a model on all test sets.

        Same interface as Detectron2's, but the results on the first of several test sets are also
        those of the run: "bbox" beside "NAME/bbox".
        """
        with prints_in_log_file():
            results = super().test(cfg, model, evaluators)
        several = len(set(cfg.DATASETS.TEST)) > 1
        return {**results[cfg.DATASETS.TEST[0]], **results} if several else results

    @classmethod
    def test_all(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """
        Evaluate a model, and again with test-time augmentation if `TEST.AUG` enables it.

        Returns:
            the results of :meth:`test` and :meth:`test_augmented`.
        """
        results: dict[str, Any] = cls.test(cfg, model)
        return _merged(results, cls.test_augmented(cfg, model)) if cfg.TEST.AUG.ENABLED else results

    @classmethod
    def test_augmented(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """
        Evaluate a model with the test-time augmentation of `TEST.AUG`.

        The detections are written into a folder of their own.

        Returns:
            the results of :meth:`test`, with the names of tasks that Detectron2 gives them, such as
            "bbox_TTA".
        """
        logger.info("Evaluation with test-time augmentation")
        names = cfg.DATASETS.TEST
        folders = (detections_folder(name, names, augmented=True) for name in names)
        evaluators = [
            cls.build_evaluator(cfg, name, str(Path(cfg.OUTPUT_DIR) / folder))
            for name, folder in zip(names, folders, strict=True)
        ]
        return _augmented(cls.test(cfg, build_tta(cfg, model), evaluators), names)


def _warn_of_ignore_regions(cfg: CfgNode) -> None:
    metadata = [MetadataCatalog.get(name) for name in cfg.DATASETS.TRAIN]
    regions = ", ".join(filter(None, (str(x.get("ignore_regions", "")) for x in metadata)))
    key = key_of_crowds(cfg) if regions else ""
    if key:
        logger.warning(f"{regions} are background in training: {key} ignore takes them out")


def _augmented(results: dict[str, Any], datasets: Sequence[str] = ()) -> dict[str, Any]:
    """Return the results under the names of augmented tasks, also within each dataset's."""
    return {
        **{f"{key}_TTA": value for key, value in results.items() if key not in datasets},
        **{key: _augmented(results[key]) for key in datasets if key in results},
    }


def _merged(results: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Return the tasks of both; with several datasets, those of each dataset."""
    return {**results, **{key: {**results.get(key, {}), **others[key]} for key in others}}
