"""Detectron2's default trainer, with the COCO evaluator."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator

from ..doctor import has_compiled_ops


class Trainer(DefaultTrainer):
    """
    Same interface as :class:`detectron2.engine.DefaultTrainer`, but every data set is evaluated as
    COCO boxes, by pycocotools where Detectron2 has no compiled evaluator.
    """

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        folder = output_folder or str(Path(cfg.OUTPUT_DIR) / "inference")
        return COCOEvaluator(dataset_name, output_dir=folder, use_fast_impl=has_compiled_ops())
