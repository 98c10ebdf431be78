"""What a hook may ask of a trainer that trains a model."""

from __future__ import annotations

import torch
from detectron2.engine import TrainerBase
from torch import nn


class ModelTrainer(TrainerBase):
    """
    The attributes that all of Detectron2's trainers of a model have, and their base does not
    declare. It types the `trainer` of hooks; no trainer is an instance of it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
