"""Command line of `focal-plugin`: its subcommands and their arguments."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .command import Command, add_import_argument, build_parser, run_command

PLUGIN_EXAMPLES = """
examples:
  focal-plugin check-data train.json:images val.json:images
      find faults in your annotations before training
  focal-plugin audit train.json:images --test val.json:images
      measure the imbalance of your data as a detector sees it, before training
  focal-plugin doctor
      report installed packages and how to fix conflicts
"""

CHECK_DATA_DESCRIPTION = """
Check datasets in COCO format before training.

examples:
  focal-plugin check-data train.json:images val.json:images
      check files: JSON:IMAGES, the annotations and the folder of their images
  focal-plugin check-data train.json:images --num-classes 3 --images
      compare with the NUM_CLASSES of a model, and decode every image
  focal-plugin check-data --config-file FILE
      check the datasets of a config as train_net.py does before training
  focal-plugin check-data --config-file FILE --dataset mine=train.json:images \\
      DATASETS.TRAIN "('mine',)" MODEL.RETINANET.NUM_CLASSES 3
      the same with a dataset of your own, and with other keys of the config
  focal-plugin check-data train.json:images --strict --report findings.json
      treat warnings as errors; write all counts and the first 20 findings of each rule as JSON

An error would train wrong, evaluate wrong or end the run later. A warning is data that Detectron2
drops silently, or a likely mistake. A note needs no action.

Exit code: 0 no errors; 1 errors, or warnings with --strict; 2 a mistake in the command.
"""

AUDIT_DESCRIPTION = """
Measure the imbalance of a training set as a detector sees it: with its input size, anchors,
matcher and loss. No model is trained.

examples:
  focal-plugin audit train.json:images
      audit annotations with the anchors of RetinaNet for COCO
  focal-plugin audit train.json:images --test val.json:images --images
      also compare with a test set, and open the images to find near copies
  focal-plugin audit --config-file FILE --dataset mine=train.json:images \\
      DATASETS.TRAIN "('mine',)" MODEL.RETINANET.NUM_CLASSES 3 INPUT.MIN_SIZE_TEST 512
      the same with the anchors and the input size of your config
  focal-plugin audit train.json:images --arm ohem --arm ghm --json audit.json
      compare the losses of two arms before the first step; write all figures as JSON

A red sentence names a fault that no training mends. A yellow one limits a result. A green one needs
no action.

Exit code: 0 nothing is red; 1 a sentence is red; 2 a mistake in the command, or errors in the data.
"""


def focal_plugin(argv: list[str] | None = None) -> int:
    """
    Run the command `focal-plugin`.

    Returns:
        0 on success; 1 for errors in the data, or if training cannot work here; 2 for a mistake in
        the command; 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["doctor"]:  # it must work if the package cannot be imported
        import focal_plugin_doctor

        return focal_plugin_doctor.main(argv[1:])
    return run_command(_parser(), COMMANDS, argv)


def _parser() -> argparse.ArgumentParser:
    return build_parser(
        "focal-plugin",
        "Check a dataset and the installation.",
        COMMANDS,
        epilog=PLUGIN_EXAMPLES,
    )


def _add_check_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = CHECK_DATA_DESCRIPTION
    parser.add_argument(
        "given",
        nargs="*",
        metavar="JSON:IMAGES",
        help="annotations and image folder; with --config-file: KEY VALUE pairs of the config",
    )
    parser.add_argument("--config-file", metavar="FILE", help="check the datasets of this config")
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=JSON:IMAGES",
        help="register a dataset for the config; without a config, check it under this name",
    )
    add_import_argument(parser)
    parser.add_argument("--strict", action="store_true", help="treat warnings as errors")
    parser.add_argument("--images", action="store_true", help="decode every image")
    parser.add_argument(
        "--allow-outside-root",
        action="store_true",
        help="allow images outside the image folder, by '..', an absolute name or a link",
    )
    parser.add_argument(
        "--max-json-mib",
        type=float,
        default=2048,
        metavar="N",
        help="do not read a larger JSON file (default: 2048)",
    )
    parser.add_argument(
        "--num-classes", type=int, metavar="N", help="NUM_CLASSES of the model, without a config"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all findings as JSON")


def _add_audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = AUDIT_DESCRIPTION
    parser.add_argument(
        "given",
        nargs="*",
        metavar="JSON:IMAGES",
        help="training annotations and image folder; with --config-file: KEY VALUE pairs",
    )
    parser.add_argument("--config-file", metavar="FILE", help="config to audit; default: COCO's")
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=JSON:IMAGES",
        help="register a dataset for the config; can be repeated",
    )
    add_import_argument(parser)
    parser.add_argument(
        "--arm",
        action="append",
        default=[],
        metavar="NAME",
        help="compare the loss of an arm before the first step; can be repeated",
    )
    parser.add_argument(
        "--test",
        action="append",
        default=[],
        metavar="JSON:IMAGES",
        help="test set to compare with, in place of those of the config; can be repeated",
    )
    parser.add_argument("--images", action="store_true", help="open images to find near copies")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with figures")


def _add_no_arguments(_: argparse.ArgumentParser) -> None:
    """Add none: `focal_plugin_doctor` parses them."""


COMMANDS = {
    "audit": Command(
        "measure the imbalance of a dataset as a detector sees it",
        _add_audit_arguments,
        "focal_plugin.audit_command",
    ),
    "check-data": Command(
        "find faults in a dataset in COCO format",
        _add_check_data_arguments,
        "focal_plugin.check_data_command",
    ),
    "doctor": Command(
        "report installed packages and how to fix conflicts",
        _add_no_arguments,
        "focal_plugin_doctor",
    ),
}
