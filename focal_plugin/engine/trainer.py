"""Detectron2's default trainer, with the COCO evaluator and the crowd regions of the data."""

from __future__ import annotations

import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from ..data.crowds import CrowdDatasetMapper
from ..doctor import has_compiled_ops
from ..modeling import knows_crowds, loses_crowds
from .diagnostics import DiagnosticsHook
from .initial_weights import build_initialized
from .run_record import RunRecordHook

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """
    Same interface as :class:`detectron2.engine.DefaultTrainer`, but every data set is evaluated as
    COCO boxes, by pycocotools where Detectron2 has no compiled evaluator, and a detector that knows
    what to do with them is told the crowd regions of its training images. A model starts as
    `MODEL.FOCAL.INIT` says, and a run records what it was and what it started from.
    """

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        return build_initialized(cfg, super().build_model)

    def build_hooks(self) -> list[HookBase | None]:
        ours: list[HookBase] = [DiagnosticsHook(self.cfg, self.model)]
        if comm.is_main_process():
            ours.append(RunRecordHook(self.cfg))
        return [*ours, *super().build_hooks()]  # the last of Detectron2's writes what all measured

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> DataLoader:
        if knows_crowds(cfg):
            return build_detection_train_loader(cfg, mapper=CrowdDatasetMapper(cfg, is_train=True))
        if loses_crowds(cfg):
            logger.warning(
                f"MODEL.FOCAL.RPN asks for crowd regions, but {cfg.MODEL.ROI_HEADS.NAME} would "
                "take them for objects: they are not loaded. FocalROIHeads knows them"
            )
        return super().build_train_loader(cfg)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        folder = output_folder or str(Path(cfg.OUTPUT_DIR) / "inference")
        return COCOEvaluator(dataset_name, output_dir=folder, use_fast_impl=has_compiled_ops())
