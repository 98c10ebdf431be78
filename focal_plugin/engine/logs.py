"""Logs of a run: one screen for its user, and all details in `log.txt`."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from focal_plugin_allocator import SWITCH, is_tuned

from ..run_folder import CONFIG_FILE, LOG_FILE

logger = logging.getLogger(__name__)

LOGGERS = ("detectron2", "fvcore", "focal_plugin")

ON_SCREEN = (
    "focal_plugin",
    "detectron2.engine.hooks",
    "detectron2.engine.train_loop",
    "detectron2.evaluation",
    "detectron2.utils.events",
)
"""Loggers whose messages the user sees; of the others, warnings only."""

TABLES_ONLY = "detectron2.evaluation.coco_evaluation"
"""Logger whose tables the user sees, but not its progress."""


def start_logs(cfg: CfgNode, args: argparse.Namespace) -> None:
    """
    Start the logs, save the config and seed the generators, as Detectron2's `default_setup` does.

    It differs from that function: the screen shows the progress and the results, or with `--quiet`
    only warnings, and only a terminal gets colors. An evaluation keeps the config of the run.
    """
    folder, rank = Path(cfg.OUTPUT_DIR), comm.get_rank()
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    for name in LOGGERS:
        stream_to_screen(setup_logger(cfg.OUTPUT_DIR, rank, name=name), quiet=args.quiet)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime"
    warnings.filterwarnings("ignore", "torch.meshgrid")  # of Detectron2's anchors
    doing = "Evaluating" if args.eval_only else "Training"
    logger.info(f"{doing} {args.config_file} in {folder}; details are in {folder / LOG_FILE}")
    logger.debug(f"Processes: {comm.get_world_size()}. Environment info:\n{collect_env_info()}")
    logger.debug(f"Command line arguments: {args}")
    if is_tuned():
        logger.debug(
            f"Memory has large pages, and some stays mapped; {SWITCH}=default turns this off"
        )
    config = cfg.dump()
    logger.debug(f"Running with full config:\n{config}")
    record = folder / CONFIG_FILE
    if rank == 0 and not (args.eval_only and record.exists()):
        record.write_text(config, encoding="utf-8")
    seed_all_rng(cfg.SEED + rank)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def stream_to_screen(source: logging.Logger, *, quiet: bool = False) -> None:
    """Reduce what a logger of Detectron2 writes to the screen; its file is not affected."""
    for handler in source.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setLevel(logging.WARNING if quiet else logging.INFO)
            handler.setFormatter(_ScreenFormatter(has_colors=_has_colors()))
            handler.addFilter(is_for_the_screen)


def is_for_the_screen(record: logging.LogRecord) -> bool:
    """Return True if the user of a terminal should see a message."""
    if record.levelno >= logging.WARNING:
        return True
    if record.name == TABLES_ONLY:
        return "\n" in record.getMessage()
    return any(record.name == name or record.name.startswith(f"{name}.") for name in ON_SCREEN)


@contextlib.contextmanager
def prints_in_log_file() -> Iterator[None]:
    """Log what is printed in this context as details, such as the tables of the evaluators."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            yield
        finally:
            if printed.getvalue().strip():
                logger.debug(f"Printed:\n{printed.getvalue().rstrip()}")


def _has_colors() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


class _ScreenFormatter(logging.Formatter):
    def __init__(self, *, has_colors: bool) -> None:
        green, red, end = ("\x1b[32m", "\x1b[31m", "\x1b[0m") if has_colors else ("", "", "")
        super().__init__(f"{green}[%(asctime)s]{end} %(message)s", datefmt="%m/%d %H:%M:%S")
        self._red, self._end = red, end

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno < logging.WARNING:
            return text
        return f"{self._red}{record.levelname}{self._end} {text}"
