"""Detectron2's default trainer with the COCO evaluator, and AdamW for who asks for it."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from ..doctor import has_compiled_ops


class Trainer(DefaultTrainer):
    """
    Same interface as :class:`detectron2.engine.DefaultTrainer`, but every data set is evaluated as
    COCO boxes, by pycocotools where Detectron2 has no compiled evaluator, and
    `MODEL.FOCAL.OPTIMIZER` may name another optimiser than SGD.
    """

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        folder = output_folder or str(Path(cfg.OUTPUT_DIR) / "inference")
        return COCOEvaluator(dataset_name, output_dir=folder, use_fast_impl=has_compiled_ops())

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """
        Raises:
            ValueError: `MODEL.FOCAL.OPTIMIZER` is neither "SGD" nor "AdamW".
        """
        name = cfg.MODEL.FOCAL.OPTIMIZER
        if name == "SGD":
            return super().build_optimizer(cfg, model)
        if name != "AdamW":
            raise ValueError(f'MODEL.FOCAL.OPTIMIZER must be "SGD" or "AdamW", got {name!r}')
        parameters = get_default_optimizer_params(
            model, weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM
        )
        adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        return adamw(parameters, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)
