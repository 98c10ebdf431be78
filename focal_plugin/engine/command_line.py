"""Conversion of the command line to a config that is checked before anything runs."""

from __future__ import annotations

import argparse
import functools
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from torch import nn

from .. import arms
from ..components import import_components
from ..config import get_cfg, resolve_device
from ..config_file import find_config_file
from ..data import (
    check_datasets,
    count_images,
    count_objects,
    log_reports,
    register_datasets,
    unused_datasets,
    use_datasets,
)
from ..modeling.prior import automatic_priors, without_automatic_priors
from ..modeling.samples_per_class import set_images_per_class, set_samples_per_class
from ..run_folder import CONFIG_FILE, LAST_CHECKPOINT, METRICS_FILE
from .checkpoints.checkpointer import Checkpointer
from .checkpoints.identity import run_identity
from .class_names import settle_class_names
from .config_checks import check_config
from .evaluated_weights import choose_weights
from .lock import OutputFolderError, hold_output_folder
from .logs import start_logs
from .trainer import Trainer

logger = logging.getLogger(__name__)

EXAMPLES = """
Examples:

Train a small RetinaNet with focal loss on the built-in dataset (two minutes on two cores):
    $ python train_net.py --config-file configs/Shapes-Detection/retinanet_small.yaml

Apply an arm, into a folder of its own; or change one key:
    $ python train_net.py --config-file configs/Shapes-Detection/retinanet_small.yaml --arm ohem
    $ python train_net.py --config-file configs/Shapes-Detection/retinanet_small.yaml \\
        OUTPUT_DIR output/gamma1 MODEL.RETINANET.FOCAL_LOSS_GAMMA 1.0

Resume after an interruption; evaluate a trained model:
    $ python train_net.py --config-file FILE --resume
    $ python train_net.py --config-file FILE --eval-only
    $ python train_net.py --config-file FILE --eval-only MODEL.WEIGHTS other/model_final.pth

Custom dataset in COCO format; a pair NAME_train and NAME_val sets DATASETS.TRAIN and DATASETS.TEST:
    $ python train_net.py --config-file FILE --dataset my_train=train.json:images \\
        --dataset my_val=val.json:images MODEL.RETINANET.NUM_CLASSES 3
    $ python train_net.py --config-file FILE --dataset pets=pets.json:images \\
        DATASETS.TRAIN "('pets',)" DATASETS.TEST "('pets',)" MODEL.RETINANET.NUM_CLASSES 3

Datasets of another format, from a module of yours that registers them with Detectron2:
    $ python train_net.py --config-file FILE --import my_datasets.py \\
        --dataset pets_train --dataset pets_val MODEL.RETINANET.NUM_CLASSES 3

Boxes of a category that are neither objects nor background; NUM_CLASSES does not count it:
    $ python train_net.py --config-file FILE --arm crowd_ignore --ignore-category DontCare \\
        --dataset my_train=train.json:images --dataset my_val=val.json:images

A loss of your own, from a module of yours that registers it:
    $ python train_net.py --config-file FILE --import my_losses.py \\
        MODEL.FOCAL.CLS_LOSS.NAME MyLoss

Several GPUs or machines (without GPUs: processes on the CPU); or under torchrun:
    $ python train_net.py --config-file FILE --num-gpus 8
    $ torchrun --nproc-per-node 8 train_net.py --config-file FILE
    (machine0)$ python train_net.py --config-file FILE --num-gpus 8 \\
        --num-machines 2 --machine-rank 0 --dist-url tcp://machine0:29500

On a CPU, memory has large pages, which saves time; FOCAL_PLUGIN_ALLOCATOR=default
keeps the allocator of the system, and so does any GLIBC_TUNABLES, MALLOC_... or LD_PRELOAD.

Exit codes: 0 success; 1 error; 2 refused before the first iteration, with a sentence (a mistake in
the command or the config, bad data, weights that do not fit, a folder that holds another run); 130
ended by Ctrl-C, or 143 by SIGTERM or SIGUSR1, after saving a checkpoint from which --resume
continues.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Return a parser with Detectron2's flags and those for datasets, checkpoints and trust."""
    parser = default_argument_parser(epilog=EXAMPLES)
    parser.add_argument(
        "--version", action="version", version=f"focal_plugin {version('focal_plugin')}"
    )
    parser.set_defaults(dist_url="auto")  # a free port instead of one port per user
    parser.add_argument(
        "--arm",
        action="append",
        default=[],
        metavar="NAME",
        help="apply an arm to the config, such as ohem (`focal-compare arms` lists them); "
        "may be given more than once",
    )
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME[=JSON:IMAGES]",
        help="register a COCO-format dataset under NAME, or name a registered one; can be repeated",
    )
    parser.add_argument(
        "--ignore-category",
        action="append",
        default=[],
        metavar="NAME",
        help="a category of the --dataset files that is no class, such as DontCare: its boxes are "
        "regions that the evaluation ignores, and training with MODEL.FOCAL.ANCHOR_LABELS.CROWD "
        "ignore; can be repeated",
    )
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="import a module of your own that registers a loss, another component or a dataset, "
        "such as my_package.losses or my_losses.py; can be repeated",
    )
    parser.add_argument(
        "--resume-fallback",
        action="store_true",
        help="with --resume: if the last checkpoint is damaged, use the newest intact one",
    )
    parser.add_argument(
        "--allow-config-change",
        action="append",
        default=[],
        metavar="KEY",
        help="with --resume: continue although KEY differs from the checkpoint, such as "
        "SOLVER.MAX_ITER to train longer; can be repeated",
    )
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="read MODEL.WEIGHTS from a .pkl file outside the model zoo: only arrays are read, no "
        "code in it is run",
    )
    parser.add_argument(
        "--allow-partial-weights",
        action="store_true",
        help="with --eval-only: evaluate although tensors of the model were not loaded",
    )
    parser.add_argument(
        "--allow-unsafe-yaml",
        action="store_true",
        help="read config files with tags such as !!python/object; this runs code in them",
    )
    parser.add_argument(
        "--allow-outside-root",
        action="store_true",
        help="read images outside the image directory of their dataset",
    )
    parser.add_argument(
        "--dist-timeout",
        type=float,
        default=30.0,
        metavar="MINUTES",
        help="maximum time that processes wait for each other (default: 30)",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="show warnings only; log.txt still has everything"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error in the input was raised"
    )
    return parser


def checkpoint_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the checkpoint options of the command line as keywords of `Checkpointer`."""
    return {
        "allowed_changes": tuple(args.allow_config_change),
        "fall_back": args.resume_fallback,
        "trust_pickle": args.trust_pickle,
    }


def setup(args: argparse.Namespace) -> CfgNode:
    """
    Register the datasets, read the config, check both, and start the logs.

    Before the logs start, only the lock of `OUTPUT_DIR` is written.

    Returns:
        the frozen config, with a `SEED` >= 0.

    Raises:
        KeyError: a key, a dataset or a component is unknown.
        ValueError: an argument or a key has an illegal value, or a config file would run code.
        DataError: the data has errors, or another number of classes than the model.
        CheckpointError: there are no weights to evaluate, or the checkpoint to resume from is
            damaged or belongs to another run.
        OutputFolderError: `OUTPUT_DIR` is in use, holds another run, or is not writable.
        RegistrationError: a module of `--import` cannot be imported, or registers what is no
            component.
        FileNotFoundError: a file that an argument names does not exist.
    """
    import_components(args.imports)
    training = not args.eval_only
    names = register_datasets(args.dataset, args.ignore_category)
    cfg = read_config(args)
    use_datasets(cfg, names, opts=args.opts, training=training)
    check_config(cfg, training=training, processes=comm.get_world_size())
    if training:
        if comm.is_main_process():
            hold_output_folder(Path(cfg.OUTPUT_DIR))
            if not args.resume:
                refuse_another_run(Path(cfg.OUTPUT_DIR))
    else:
        choose_weights(cfg, args)
    reports = check_datasets(cfg, allow_outside_root=args.allow_outside_root, training=training)
    settle_seed(cfg, resume=args.resume)
    renamed = settle_class_names(cfg, training=training)
    if training:
        settle_from_training_set(cfg)
    else:
        cfg = without_automatic_priors(cfg)  # the weights come from a checkpoint
    count_images_per_class(cfg)
    cfg.freeze()
    if args.resume and training:
        check_resumable(cfg, checkpoint_options(args))
    start_logs(cfg, args)
    log_reports(reports)
    if renamed:
        logger.warning(renamed)
    for name in unused_datasets(cfg, names) if training else ():
        logger.warning(f"--dataset {name} is registered, but the config does not use it")
    return cfg


def read_config(args: argparse.Namespace) -> CfgNode:
    """
    Return the config of the command line: its file, arms and `KEY VALUE` pairs.

    Raises:
        KeyError: a key or an arm is unknown.
        ValueError: no file is given, or a value has another type; or a file would run code.
        FileNotFoundError: there is no such file.
    """
    if not args.config_file:
        raise ValueError(
            "no config is given: add --config-file FILE, such as "
            "Shapes-Detection/retinanet_small.yaml"
        )
    args.config_file = str(find_config_file(args.config_file))
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file, allow_unsafe=args.allow_unsafe_yaml)
    if args.arm:
        arms.apply(cfg, *args.arm)
        cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR, "+".join(args.arm).replace("/", "-")))
    cfg.merge_from_list(args.opts)
    resolve_device(cfg)
    return cfg


def refuse_another_run(folder: Path) -> None:
    """
    Raise an error if a run has trained in the folder, because a new one would overwrite it.

    Raises:
        OutputFolderError: the folder has a checkpoint or metrics.
    """
    traces = [*sorted(folder.glob("model_*.pth")), folder / LAST_CHECKPOINT, folder / METRICS_FILE]
    found = next((file for file in traces if file.is_file() and file.stat().st_size), None)
    if found is not None:
        raise OutputFolderError(
            f"the output folder {folder} holds a run already ({found.name}): continue it with "
            "--resume, or choose another OUTPUT_DIR"
        )


def check_resumable(cfg: CfgNode, options: dict[str, Any]) -> None:
    """
    Raise an error if the run cannot resume, before its logs and its config are written.

    Raises:
        CheckpointError: see :meth:`Checkpointer.check_resumable`.
    """
    scaled = Trainer.auto_scale_workers(cfg, comm.get_world_size())
    Checkpointer(
        nn.Module(), cfg.OUTPUT_DIR, identity=run_identity(scaled), **options
    ).check_resumable()


def settle_seed(cfg: CfgNode, *, resume: bool) -> None:
    """
    Replace a negative `SEED` by a drawn one, the same in all processes.

    A resumed run takes the seed that it drew before. All random draws of a run depend only on it.

    Raises:
        ValueError: the saved config of the run to resume is damaged.
    """
    if cfg.SEED >= 0:
        return
    drawn = comm.shared_random_seed()
    record = Path(cfg.OUTPUT_DIR) / CONFIG_FILE
    if resume and record.exists():
        drawn = _seed_of(record)
    cfg.SEED = comm.all_gather(drawn)[0]  # the main process's seed


def _seed_of(record: Path) -> int:
    try:
        seed = yaml.safe_load(record.read_text(encoding="utf-8"))["SEED"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{record} is damaged: {_SEED_REMEDY}") from error
    if type(seed) is not int or seed < 0:
        raise ValueError(f"{record} is damaged, its SEED is {seed!r}: {_SEED_REMEDY}")
    return seed


_SEED_REMEDY = "state the SEED of the run, or delete the file and start without --resume"


def settle_from_training_set(cfg: CfgNode) -> None:
    """
    Write into the config what it takes from the training set.

    The number of objects or images of each class is written into the `SAMPLES_PER_CLASS` of a loss
    that requires it, unless the config sets it, and its alphas into a `CLASS_ALPHA` of "auto".
    Proposals have one class. The share of positives is written into a `PRIOR_PROB` of "auto". So
    the saved config of a run contains the numbers that it used.

    Raises:
        ValueError: an option is outside its legal range; the message names its key.
    """
    if automatic_priors(cfg):
        from ..audit.optimal_prior import settle_priors  # its imports take long

        settle_priors(cfg)
    set_samples_per_class(
        cfg,
        functools.partial(count_objects, cfg.DATASETS.TRAIN),
        functools.partial(count_images, cfg.DATASETS.TRAIN),
    )


def count_images_per_class(cfg: CfgNode) -> None:
    """
    Count the training images per class if the box head requires it, see `set_images_per_class`.

    An evaluation requires them, too.
    """
    set_images_per_class(cfg, functools.partial(count_images, cfg.DATASETS.TRAIN))
