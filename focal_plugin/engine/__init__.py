"""Detectron2's trainer with a COCO evaluator, fault tolerance and a command line."""

from .checkpoints.checkpointer import Checkpointer, CheckpointError
from .command_line import argument_parser, checkpoint_options, refusals_in_words, setup
from .processes.launch import launch
from .trainer import Trainer

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "Trainer",
    "argument_parser",
    "checkpoint_options",
    "launch",
    "refusals_in_words",
    "setup",
]
