"""The stock trainer with a COCO evaluator, and the set-up shared by command line tools."""

from .setup import argument_parser, setup
from .trainer import Trainer

__all__ = ["Trainer", "argument_parser", "setup"]
