"""Command line of `focal-plugin`: its subcommands and their arguments."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from .command import Command, add_import_argument, build_parser, run_command

PLUGIN_EXAMPLES = """
examples:
  focal-plugin check-data train.json:images val.json:images
      find faults in your annotations before training
  focal-plugin init cells --train train.json:images --budget 2h
      write a config and a comparison for your data, this machine and the time you have
  focal-plugin audit train.json:images --test val.json:images
      measure the imbalance of your data as a detector sees it, before training
  focal-plugin predict output/mine photos/
      draw the boxes of a trained run on images
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


INIT_DESCRIPTION = """
Write NAME/base.yaml and NAME/compare.yaml, a first comparison of answers to imbalance on your data:
input size, anchors, batch, schedule and learning rate, each with its reason.

examples:
  focal-plugin init cells --train train.json:images --val val.json:images
      two hours for seven arms with six seeds each; `focal-compare run cells/compare.yaml` trains
  focal-plugin init cells --train all.json:images --budget 45m --seeds 2
      split the images first, stratified by class, into cells/train.json and cells/val.json
  focal-plugin init street --train train.json:images --val val.json:images --size r50 --budget 3d
      ResNet-50 with ImageNet weights, for a GPU
  focal-plugin init pets --import my_datasets.py --train pets_train --val pets_val
      datasets that a module of yours registers

The time of a run is measured with a few steps here, so use the machine that will train. Faulty data
is refused, as by check-data. Nothing is written over.

Exit code: 0 written; 1 errors in the data; 2 a mistake in the command, or too small a budget.
"""

PREDICT_DESCRIPTION = """
Detect objects on images with a trained run.

examples:
  focal-plugin predict output/mine photos/
      all images of a folder; results go to output/mine/predictions
  focal-plugin predict output/mine a.jpg 'photos/**/*.png' --out boxes
      files and a quoted pattern, into another folder
  focal-plugin predict output/mine photos/ --score 0.3 --no-images
      one score threshold for all classes, and no pictures
  focal-plugin predict runs/mine/fl-seed1-95ec26a5 photos/ --device cuda --batch 16
      a run of a comparison, on a GPU

RUN is the OUTPUT_DIR of a training. Each class has the score threshold with the largest F1 on the
test set of the run (--score auto). The results are predictions.json, a COCO file with a score for
each annotation, and pictures with the boxes.

Exit code: 0 success; 1 a file could not be read, and the others are done; 2 a mistake in the
command.
"""

EXPORT_DESCRIPTION = """
Write the detector of a trained run to one file that needs no Detectron2.

examples:
  focal-plugin export output/mine --format torchscript
      a trace, output/mine/model.torchscript.pt, which takes images of every size
  focal-plugin export output/mine --format torchscript --scripting --out mine.pt
      a script with its control flow instead
  focal-plugin export output/mine --format onnx --images photos/
      ONNX, compared with PyTorch on images of yours

The exported detector takes one image (C, H, W), resized as for an evaluation, and returns boxes,
scores and classes. It is first compared with the detector in PyTorch on ten images: those of
--images, else test images of the run, else random ones.

Exit code: 0 success; 1 the exported detector differs, and is not written; 2 a mistake in the
command.
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
        "Check a dataset and the installation, and use a trained run.",
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
        metavar="NAME[=JSON:IMAGES]",
        help="register a dataset for the config, or name a registered one; without a config, check "
        "it under this name",
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


def _add_init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = INIT_DESCRIPTION
    parser.add_argument("name", metavar="NAME", help="folder to write, which must not exist")
    parser.add_argument(
        "--train",
        required=True,
        metavar="JSON:IMAGES",
        help="annotations and image folder in COCO format, or the name of a registered dataset",
    )
    parser.add_argument(
        "--val",
        metavar="JSON:IMAGES",
        help="images for the evaluation; default: a fifth of the training images",
    )
    parser.add_argument(
        "--budget",
        default="2h",
        metavar="TIME",
        help="time for all runs together, such as 30m, 2h or 1h30m (default: 2h)",
    )
    parser.add_argument(
        "--size",
        choices=("small", "r50"),
        default="small",
        help="model: a small one that trains on a CPU (default), or ResNet-50",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=6,
        metavar="N",
        help="runs of each arm (default: 6, the fewest that give a verdict)",
    )
    parser.add_argument(
        "--input-size",
        type=int,
        metavar="PIXELS",
        help="shorter side of an image for the model; default: as the smallest class requires",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time; default: one per GPU, or one, as in `focal-compare run`",
    )
    add_import_argument(parser)


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
        metavar="NAME[=JSON:IMAGES]",
        help="register a dataset for the config, or name a registered one; can be repeated",
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


def _add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = PREDICT_DESCRIPTION
    _add_run_arguments(parser)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="image files, folders or quoted patterns"
    )
    parser.add_argument(
        "--score",
        type=_score,
        default=None,
        metavar="auto|X",
        help="least score of a box; auto (default): the F1-best of each class",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the results; default: RUN/predictions"
    )
    parser.add_argument(
        "--batch",
        type=_positive,
        metavar="N",
        help="images of one size at a time; default: 8 on a GPU, else 1",
    )
    parser.add_argument(
        "--no-images", action="store_false", dest="draw", help="write predictions.json only"
    )


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = EXPORT_DESCRIPTION
    _add_run_arguments(parser)
    parser.add_argument("--format", choices=("torchscript", "onnx"), required=True)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--tracing",
        action="store_false",
        dest="scripting",
        help="record the operations of one image (default); every detector supports it",
    )
    how.add_argument(
        "--scripting",
        action="store_true",
        help="compile the code, with its control flow; not for Cascade R-CNN",
    )
    parser.set_defaults(scripting=False)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: model.torchscript.pt or model.onnx in RUN",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGES",
        help="images for the comparison: files, folders or quoted patterns",
    )


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select the run, its weights and the device."""
    add_import_argument(parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="OUTPUT_DIR of a training")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="other weights; default: the last checkpoint"
    )
    parser.add_argument(
        "--device", default="auto", metavar="D", help="cpu, cuda, cuda:1; default: a GPU if any"
    )


def _score(text: str) -> float | None:
    if text == "auto":
        return None
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"it must be auto or a number from 0 to 1, got {text!r}")


def _positive(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"it must be an integer > 0, got {text!r}")


def _add_no_arguments(_: argparse.ArgumentParser) -> None:
    """Add none: `focal_plugin_doctor` parses them."""


COMMANDS = {
    "init": Command(
        "write a first comparison for a dataset of your own",
        _add_init_arguments,
        "focal_plugin.init.init_command",
    ),
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
    "predict": Command(
        "detect objects on images with a trained run",
        _add_predict_arguments,
        "focal_plugin.prediction.predict_command",
    ),
    "export": Command(
        "write the detector of a trained run as TorchScript or ONNX",
        _add_export_arguments,
        "focal_plugin.prediction.export_command",
    ),
    "doctor": Command(
        "report installed packages and how to fix conflicts",
        _add_no_arguments,
        "focal_plugin_doctor",
    ),
}
