"""Weights of an evaluation: their choice, and a check that they are those of the model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from ..run_folder import FINAL_WEIGHTS, LAST_CHECKPOINT
from .checkpoints.checkpointer import Checkpointer, CheckpointError
from .finite import wrong_weight
from .trainer import Trainer


def choose_weights(cfg: CfgNode, args: argparse.Namespace) -> None:
    """
    Set `MODEL.WEIGHTS` for an evaluation to those of a finished run in `OUTPUT_DIR`, if any.

    `MODEL.WEIGHTS` of the command line has priority, and so has --resume.

    Raises:
        CheckpointError: there are no weights at all, and --allow-partial-weights is not given.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if args.resume and (folder / LAST_CHECKPOINT).exists():
        return
    if "MODEL.WEIGHTS" not in args.opts[::2] and (folder / FINAL_WEIGHTS).is_file():
        cfg.MODEL.WEIGHTS = str(folder / FINAL_WEIGHTS)
    if not cfg.MODEL.WEIGHTS and not args.allow_partial_weights:
        unfinished = (folder / LAST_CHECKPOINT).exists()
        raise CheckpointError(
            "--eval-only would evaluate a random model, none of whose tensors is loaded: "
            f"MODEL.WEIGHTS is empty, and the output folder {folder} has no {FINAL_WEIGHTS}; "
            + ("add --resume for its last checkpoint, or " if unfinished else "")
            + "give MODEL.WEIGHTS or the OUTPUT_DIR of a finished run"
        )


def load_model(cfg: CfgNode, args: argparse.Namespace, options: dict[str, Any]) -> nn.Module:
    """
    Return a model to evaluate.

    Args:
        options: options of :class:`~focal_plugin.engine.checkpoints.checkpointer.Checkpointer`.

    Raises:
        CheckpointError: a tensor was not loaded, and --allow-partial-weights is not given; or a
            weight is not finite.
    """
    model = Trainer.build_model(cfg)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, **options)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    if not args.allow_partial_weights:
        checkpointer.check_complete()
    if problem := wrong_weight(model):
        raise CheckpointError(f"{problem}, so the model cannot be evaluated; give other weights")
    return model
