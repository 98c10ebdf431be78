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
  focal-plugin check-data train.json:images val.json:images --ignore-category DontCare
      boxes of this category are ignore regions, and it is no class
  focal-plugin check-data train.json:images --strict --report findings.json
      treat warnings as errors; write all counts and the first 20 findings of each rule as JSON

An error would train wrong, evaluate wrong or end the run later. A warning is data that Detectron2
drops silently, or a likely mistake. A note needs no action.

Exit code: 0 no errors; 1 errors, or warnings with --strict; 2 a mistake in the command.
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
    parser.add_argument(
        "--ignore-category",
        action="append",
        default=[],
        metavar="NAME",
        help="a category that is no class, such as DontCare: its boxes are ignore regions; can be "
        "repeated",
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


def _add_no_arguments(_: argparse.ArgumentParser) -> None:
    """Add none: `focal_plugin_doctor` parses them."""


COMMANDS = {
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
