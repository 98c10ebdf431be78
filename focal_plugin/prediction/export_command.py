"""Command `focal-plugin export`: the detector of a trained run in one file."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ..compare.report.cells import count_text
from ..components import import_components
from ..files import write_all
from ..json_file import DamagedFileError, read_object
from ..run_folder import THRESHOLDS_NAME, detections_folder
from ..score_thresholds import ScoreThresholds
from .agreement import BOX_TOLERANCE, SCORE_TOLERANCE, Agreement, compare
from .dataset_images import images_of_test_set
from .detector import read_input
from .exported_model import Exported, eager, onnx_packages, script, to_onnx, trace
from .image_files import find_images
from .trained_run import TrainedModel, TrainedRun, load_model, progress_sentence, read_run

SUFFIXES = {"torchscript": ".torchscript.pt", "onnx": ".onnx"}
NUM_IMAGES = 10
"""Number of images on which the exported detector is compared."""
RANDOM_SIZES = ((1.0, 1.0), (1.0, 1.25), (1.25, 1.0), (1.0, 1.5), (0.75, 1.0))
"""Heights and widths of random images, in units of `INPUT.MIN_SIZE_TEST`."""


def main(args: argparse.Namespace) -> int:
    """
    Export the detector of a run, and compare it with the detector in PyTorch before it is written.

    Returns:
        0; 1 if the exported detector fails or differs, and then nothing is written.
    """
    warnings.filterwarnings("ignore", "torch.meshgrid")  # of Detectron2's anchors
    import_components(args.imports)
    if args.format == "onnx":
        onnx_packages()
        if args.scripting:
            raise ValueError("--format onnx is made by a trace: leave --scripting away")
    file = args.out or args.run / f"model{SUFFIXES[args.format]}"
    if args.out and not file.parent.is_dir():
        raise FileNotFoundError(f"--out: there is no folder {file.parent}")
    given = find_images(args.images or ())
    run = read_run(
        args.run, weights=args.weights, device="cpu" if args.format == "onnx" else args.device
    )
    model = load_model(run)
    print(progress_sentence(run, model))
    images, origin = _images(run.cfg, given, run)
    expected = [eager(model.model, image) for image in images]
    example = images[max(range(len(images)), key=lambda i: len(expected[i][1]))]
    exported = _export(args, run, model, example)
    try:
        agreement = compare(expected, exported.detect, images)
    except Exception as error:  # each runtime raises its own
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"The exported detector fails, so it is not written: {reason}", file=sys.stderr)
        return 1
    print(_sentence(agreement, origin))
    if not agreement.is_within_tolerance:
        print("The exported detector differs, so it is not written.", file=sys.stderr)
        return 1
    write_all({file: exported.content})
    print(f"{file}: {len(exported.content) / 2**20:.1f} MiB")
    return 0


def _export(
    args: argparse.Namespace, run: TrainedRun, model: TrainedModel, image: Tensor
) -> Exported:
    facts = facts_of(run, model)
    if args.format == "onnx":
        return to_onnx(model.model, image, facts)
    return script(model.model, facts) if args.scripting else trace(model.model, image, facts)


def facts_of(run: TrainedRun, model: TrainedModel) -> dict[str, Any]:
    """Return what a user of the file must know: classes, input and score thresholds."""
    cfg = run.cfg
    return {
        "class_names": list(model.class_names),
        "format": cfg.INPUT.FORMAT,
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "score_thresholds": _scores(run),
    }


def _scores(run: TrainedRun) -> list[float | None] | None:
    if run.test_set is None:
        return None
    folder = run.folder / detections_folder(run.test_set, run.cfg.DATASETS.TEST)
    try:
        stored = read_object(ScoreThresholds, folder / THRESHOLDS_NAME)
    except DamagedFileError:
        return None
    return None if stored is None else [one.score for one in stored.classes]


def _images(cfg: CfgNode, given: Sequence[Path], run: TrainedRun) -> tuple[list[Tensor], str]:
    """Return images as the network gets them, one of another size, and where they come from."""
    device = torch.device(cfg.MODEL.DEVICE)
    files, origin = (given, "given image") if given else (images_of_test_set(run), "test image")
    if files:
        step = max(1, len(files) // NUM_IMAGES)
        chosen = [read_input(cfg, file).float() for file in files[::step][:NUM_IMAGES]]
    else:
        origin = "random image"
        chosen = _random_images(cfg)
    first = chosen[0]
    lower = first[:, : max(1, first.shape[1] * 3 // 4)]  # in case all images have one size
    return [image.to(device).contiguous() for image in (*chosen, lower)], origin


def _random_images(cfg: CfgNode) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    side, channels = cfg.INPUT.MIN_SIZE_TEST or 256, len(cfg.MODEL.PIXEL_MEAN)
    sizes = [RANDOM_SIZES[i % len(RANDOM_SIZES)] for i in range(NUM_IMAGES)]
    return [
        torch.randint(
            0, 256, (channels, int(side * height), int(side * width)), generator=generator
        ).float()
        for height, width in sizes
    ]


def _sentence(found: Agreement, origin: str) -> str:
    compared = count_text(found.images - 1, origin)
    text = (
        f"Compared with the detector in PyTorch on {compared} and a part of one, with "
        f"{found.boxes} boxes: largest difference {found.box_difference:.2g} px (tolerance "
        f"{BOX_TOLERANCE:g}) and {found.score_difference:.2g} in a score (tolerance "
        f"{SCORE_TOLERANCE:g})."
    )
    empty = " No box was compared: give images with objects, --images." if not found.boxes else ""
    return text + empty
