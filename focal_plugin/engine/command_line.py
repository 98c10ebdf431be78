"""From the command line to a config that is checked before anything runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from ..config import get_cfg, resolve_device
from ..config_file import find_config_file
from ..data import (
    DataError,
    check_datasets,
    count_objects,
    log_reports,
    parse_dataset_argument,
    register_coco_dataset,
)
from ..losses import CLS_LOSS_REGISTRY
from ..modeling import places
from ..registry import DENSE
from ..run_folder import CONFIG_FILE
from .checkpoints.checkpointer import Checkpointer, CheckpointError
from .checkpoints.identity import run_identity
from .lock import OutputFolderError, hold_output_folder
from .trainer import Trainer

EXAMPLES = """
Examples:

Train a small RetinaNet with focal loss on the built-in data set (two minutes on two cores):
    $ python train_net.py --config-file configs/Shapes-Detection/retinanet_small_fl.yaml

The same with one thing changed:
    $ python train_net.py --config-file configs/Shapes-Detection/retinanet_small_fl.yaml \\
        OUTPUT_DIR output/gamma1 MODEL.RETINANET.FOCAL_LOSS_GAMMA 1.0

Go on after an interruption; evaluate what is trained:
    $ python train_net.py --config-file FILE --resume
    $ python train_net.py --config-file FILE --eval-only MODEL.WEIGHTS output/model_final.pth

Your own data set in COCO format:
    $ python train_net.py --config-file FILE --dataset my_train=train.json:images \\
        --dataset my_val=val.json:images \\
        DATASETS.TRAIN "('my_train',)" DATASETS.TEST "('my_val',)" MODEL.RETINANET.NUM_CLASSES 3

Several GPUs, several machines (without GPUs: processes on the CPU); or under torchrun:
    $ python train_net.py --config-file FILE --num-gpus 8
    $ torchrun --nproc-per-node 8 train_net.py --config-file FILE
    (machine0)$ python train_net.py --config-file FILE --num-gpus 8 \\
        --num-machines 2 --machine-rank 0 --dist-url tcp://machine0:29500

Exit codes: 0 done; 1 an error; 2 refused, and nothing was written (bad data, a damaged checkpoint,
another run's); 143 ended by SIGTERM or SIGUSR1 after a checkpoint, --resume goes on.
"""

REFUSALS = (CheckpointError, DataError, OutputFolderError)
"""Errors that are about what the user gave, and whose text says all that there is to know."""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's flags, all of them, and those for data sets, checkpoints and trust."""
    parser = default_argument_parser(epilog=EXAMPLES)
    parser.set_defaults(dist_url="auto")  # a port that is free, not one for each user
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=JSON:IMAGES",
        help="register a COCO-format data set under NAME; may be given more than once",
    )
    parser.add_argument(
        "--resume-fallback",
        action="store_true",
        help="with --resume: where the last checkpoint is damaged, take the newest that is not",
    )
    parser.add_argument(
        "--allow-config-change",
        action="append",
        default=[],
        metavar="KEY",
        help="with --resume: go on though KEY is another than in the checkpoint, such as "
        "SOLVER.MAX_ITER to train longer; may be given more than once",
    )
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="read MODEL.WEIGHTS from a .pkl file that is not of the model zoo: only arrays, no "
        "code in it is run",
    )
    parser.add_argument(
        "--allow-unsafe-yaml",
        action="store_true",
        help="read config files with tags such as !!python/object; code in them is run",
    )
    parser.add_argument(
        "--allow-outside-root",
        action="store_true",
        help="read images that lie outside of the image directory of their data set",
    )
    parser.add_argument(
        "--dist-timeout",
        type=float,
        default=30.0,
        metavar="MINUTES",
        help="how long processes wait for each other (default: 30)",
    )
    return parser


def checkpoint_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says about checkpoints, for a `Checkpointer`."""
    return {
        "allowed_changes": tuple(args.allow_config_change),
        "fall_back": args.resume_fallback,
        "trust_pickle": args.trust_pickle,
    }


@contextmanager
def refusals_in_words() -> Iterator[None]:
    """
    What is refused ends the process with its message, without a traceback, and exit code 2. What
    all processes refuse, the main one tells.
    """
    try:
        yield
    except REFUSALS as error:
        if comm.is_main_process() or not getattr(error, "raised_by_all", False):
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def setup(args: argparse.Namespace) -> CfgNode:
    """
    Register the data sets, read the config, check both against each other, start the logs. Until
    the logs, nothing is written but the lock of `OUTPUT_DIR`.

    Returns:
        the frozen config, with a `SEED` >= 0.

    Raises:
        KeyError: an unknown key or data set.
        ValueError: `--dataset` has another form, or a config file would run code.
        DataError: the data cannot be trained on, or have another number of classes than the model.
        CheckpointError: what is to be resumed from is damaged, or another run's.
        OutputFolderError: another run writes into `OUTPUT_DIR`, or nobody can.
        FileNotFoundError: a file that an argument names is not there.
    """
    for text in args.dataset:
        register_coco_dataset(parse_dataset_argument(text))
    if args.config_file:
        args.config_file = str(find_config_file(args.config_file))
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file, allow_unsafe=args.allow_unsafe_yaml)
    cfg.merge_from_list(args.opts)
    resolve_device(cfg)
    if not args.eval_only and comm.is_main_process():
        hold_output_folder(Path(cfg.OUTPUT_DIR))
    reports = check_datasets(
        cfg, allow_outside_root=args.allow_outside_root, training=not args.eval_only
    )
    settle_seed(cfg, resume=args.resume)
    if not args.eval_only:
        count_samples_per_class(cfg)
    cfg.freeze()
    if args.resume and not args.eval_only:
        check_resumable(cfg, checkpoint_options(args))
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="focal_plugin")
    log_reports(reports)
    return cfg


def check_resumable(cfg: CfgNode, options: dict[str, Any]) -> None:
    """
    What is refused when a run is resumed is refused before its logs and its config are written.

    Raises:
        CheckpointError: see :meth:`Checkpointer.check_resumable`.
    """
    scaled = Trainer.auto_scale_workers(cfg, comm.get_world_size())
    Checkpointer(
        nn.Module(), cfg.OUTPUT_DIR, identity=run_identity(scaled), **options
    ).check_resumable()


def settle_seed(cfg: CfgNode, *, resume: bool) -> None:
    """
    Where `SEED` is negative, draw one for all processes, or take the one that the run which is
    resumed has drawn: what a run draws at random depends on it, and on nothing else.
    """
    if cfg.SEED >= 0:
        return
    drawn = comm.shared_random_seed()
    record = Path(cfg.OUTPUT_DIR) / CONFIG_FILE
    if resume and record.is_file():
        drawn = yaml.safe_load(record.read_text(encoding="utf-8"))["SEED"]
    cfg.SEED = comm.all_gather(drawn)[0]  # of the main process


def count_samples_per_class(cfg: CfgNode) -> None:
    """
    Where a classification loss wants to know how many objects of each class the training set has,
    and the config does not say, count them into its `SAMPLES_PER_CLASS` (for proposals there is
    one class): the config that a run leaves behind has the numbers that it used.
    """
    key = "MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS"
    roi_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for place, num_classes in [
        (DENSE, cfg.MODEL.RETINANET.NUM_CLASSES),
        (places.RPN, roi_classes),
        (places.ROI_HEADS, roi_classes),
    ]:
        name = place.read(cfg, "MODEL.FOCAL.CLS_LOSS.NAME")
        loss = dict(CLS_LOSS_REGISTRY).get(name)  # None: building the model says which there are
        wanted = loss is not None and key in loss.config_keys.values()
        if wanted and not place.read(cfg, key):
            counts = count_objects(cfg.DATASETS.TRAIN, num_classes=num_classes)
            here = [sum(counts)] if place is places.RPN else counts
            pair: list[Any] = [place.key(key), here]
            cfg.merge_from_list(pair)
