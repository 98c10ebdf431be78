"""Type of a trainer that trains a model, for hooks."""

from __future__ import annotations

import torch
from detectron2.engine import TrainerBase
from torch import nn


class ModelTrainer(TrainerBase):
    """
    Attributes that all Detectron2 trainers of a model have, but their base does not declare.

    It types the `trainer` attribute of hooks; no trainer is an instance of it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
