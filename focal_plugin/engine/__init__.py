"""The stock trainer with a COCO evaluator, set up from a command line."""

from .command_line import argument_parser, setup
from .trainer import Trainer

__all__ = ["Trainer", "argument_parser", "setup"]
