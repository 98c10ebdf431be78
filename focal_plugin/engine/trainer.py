"""Detectron2's default trainer, with the COCO evaluator and the crowd regions of the data."""

from __future__ import annotations

import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from ..data.image_cache import build_train_mapper
from ..modeling import knows_crowds, loses_crowds
from .diagnostics import DiagnosticsHook
from .evaluation import build_coco_evaluator
from .initial_weights import build_initialized
from .run_record import RunRecordHook

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """
    Same interface as :class:`detectron2.engine.DefaultTrainer`, but every data set is evaluated as
    COCO boxes, by the fastest implementation installed, and a detector that knows what to do with
    them is told the crowd regions of its training images. A model starts as `MODEL.FOCAL.INIT`
    says, and a run records what it was and what it started from.
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
        if loses_crowds(cfg):
            logger.warning(
                f"MODEL.FOCAL.RPN asks for crowd regions, but {cfg.MODEL.ROI_HEADS.NAME} would "
                "take them for objects: they are not loaded. FocalROIHeads knows them"
            )
        mapper = build_train_mapper(cfg, crowds=knows_crowds(cfg))
        return build_detection_train_loader(cfg, mapper=mapper)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        folder = output_folder or str(Path(cfg.OUTPUT_DIR) / "inference")
        return build_coco_evaluator(dataset_name, folder)
