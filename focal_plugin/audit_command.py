"""Command `focal-plugin audit`: what the imbalance of a dataset is, before training."""

from __future__ import annotations

import argparse
import os
import sys

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from .audit import audit_config
from .audit.page import html_page
from .audit.text_page import text_page
from .components import import_components
from .config import get_cfg
from .config_file import find_config_file
from .data import DataError, DatasetArgument, check_datasets, register_coco_dataset
from .data.checks.facts import find_json
from .dataset_config import config_of_flags, parse_files
from .engine.config_checks import check_config
from .files import write_text

BASE = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
"""Config of a file that is given without one."""


def main(args: argparse.Namespace) -> int:
    """
    Audit the training set, and print a page of text.

    Returns:
        0, or 1 if a sentence is red.
    """
    import_components(args.imports)
    cfg = _config(args)
    cfg.MODEL.DEVICE = "cpu"  # no model runs
    check_config(cfg, training=True, processes=1)
    _refuse_faults(cfg)
    audit = audit_config(cfg, test=cfg.DATASETS.TEST, arms=args.arm, images=args.images)
    print(f"config: {args.config_file or _default(cfg)}")
    print(text_page(audit, colored=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    if args.json is not None:
        write_text(args.json, audit.as_json() + "\n")
    if args.html is not None:
        write_text(args.html, html_page(audit))
    return 1 if audit.red else 0


def _refuse_faults(cfg: CfgNode) -> None:
    """
    Refuse faulty data as `train_net.py` does.

    Raises:
        ValueError: a dataset has errors. It is no :class:`DataError`, whose exit code is that of a
            red sentence.
    """
    try:
        check_datasets(cfg)
    except DataError as error:
        raise ValueError(str(error)) from error


def _default(cfg: CfgNode) -> str:
    classes = cfg.MODEL.RETINANET.NUM_CLASSES
    return f"{BASE}, the default, with {classes} classes; choose yours with --config-file"


def _config(args: argparse.Namespace) -> CfgNode:
    """
    Return the config of the arguments, whose `DATASETS.TEST` are the sets to compare.

    Raises:
        ValueError: the arguments contradict each other, or have another form.
    """
    cfg: CfgNode
    if args.config_file:
        cfg = config_of_flags(args.config_file, datasets=args.dataset, opts=args.given)
        tests = [name for name in cfg.DATASETS.TEST if _is_here(name)]
    else:
        cfg, tests = _config_of_file(args), []
    if args.test:
        tests = [_register(text) for text in args.test]
    cfg.DATASETS.TEST = tuple(tests)
    return cfg


def _config_of_file(args: argparse.Namespace) -> CfgNode:
    if len(args.given) != 1 or args.dataset:
        raise ValueError(
            "without --config-file, give one training set as JSON:IMAGES, such as "
            f"train.json:images; got {' '.join(args.given) or 'nothing'}"
        )
    name = _register(args.given[0])
    cfg = get_cfg()
    cfg.merge_from_file(str(find_config_file(BASE)))
    cfg.DATASETS.TRAIN = (name,)
    cfg.MODEL.RETINANET.NUM_CLASSES = len(MetadataCatalog.get(name).thing_classes)
    return cfg


def _register(text: str) -> str:
    """Register `JSON:IMAGES` under the name of its file, and return the name."""
    json_file, image_root = parse_files(text)
    name = str(json_file)
    if name not in DatasetCatalog.list():
        register_coco_dataset(DatasetArgument(name, json_file, image_root))
    return name


def _is_here(name: str) -> bool:
    """Return True if a test set of the config is registered, and its file exists."""
    try:
        return name in DatasetCatalog.list() and find_json(name) is not None
    except FileNotFoundError:
        return False
