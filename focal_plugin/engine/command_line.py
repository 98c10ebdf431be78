"""From the command line to a config that is checked before anything runs."""

from __future__ import annotations

import argparse

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import get_cfg, resolve_device
from ..data import (
    check_datasets,
    count_objects,
    parse_dataset_argument,
    register_coco_dataset,
)
from ..losses import CLS_LOSS_REGISTRY
from ..modeling import places
from ..registry import DENSE

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

Several GPUs, several machines:
    $ python train_net.py --config-file FILE --num-gpus 8
    (machine0)$ python train_net.py --config-file FILE --num-gpus 8 \\
        --num-machines 2 --machine-rank 0 --dist-url tcp://machine0:29500
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's flags, all of them, and `--dataset`."""
    parser = default_argument_parser(epilog=EXAMPLES)
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=JSON:IMAGES",
        help="register a COCO-format data set under NAME; may be given more than once",
    )
    return parser


def setup(args: argparse.Namespace) -> CfgNode:
    """
    Register the data sets, read the config, check both against each other, start the logs.

    Returns:
        the frozen config.

    Raises:
        KeyError: an unknown key or data set.
        ValueError: `--dataset` has another form, or the numbers of classes differ.
        FileNotFoundError: a file that an argument names is not there.
    """
    for text in args.dataset:
        register_coco_dataset(parse_dataset_argument(text))
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    resolve_device(cfg)
    check_datasets(cfg)
    if not args.eval_only:
        count_samples_per_class(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="focal_plugin")
    return cfg


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
            cfg.merge_from_list([place.key(key), here])
