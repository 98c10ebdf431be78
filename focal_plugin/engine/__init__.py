"""Detectron2's trainer with a COCO evaluator, fault tolerance and a command line."""

from .checkpoints.checkpointer import Checkpointer, CheckpointError
from .command_line import argument_parser, checkpoint_options, setup
from .processes.launch import launch
from .refusals import Refusal, refusals_in_words
from .trainer import Trainer

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "Refusal",
    "Trainer",
    "argument_parser",
    "checkpoint_options",
    "launch",
    "refusals_in_words",
    "setup",
]
