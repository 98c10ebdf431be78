"""Command `focal-plugin predict`: boxes of a trained run on images."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from detectron2.structures import Instances
from tqdm import tqdm

from ..compare.report.cells import count_text
from ..components import import_components
from ..files import write_text
from .coco_file import CocoFile
from .detector import Detected, Unreadable, detect
from .image_files import common_folder, find_images
from .pictures import draw_picture, picture_files, save_picture
from .thresholds import Thresholds, automatic, best_thresholds
from .trained_run import TrainedModel, TrainedRun, load_model, progress_sentence, read_run

PREDICTIONS_FILE = "predictions.json"
PICTURES_FOLDER = "pictures"


def main(args: argparse.Namespace) -> int:
    """
    Detect objects on images, write `predictions.json` and draw pictures.

    Returns:
        0; 1 if a file could not be read.
    """
    warnings.filterwarnings("ignore", "torch.meshgrid")  # of Detectron2's anchors
    import_components(args.imports)
    files = find_images(args.images)
    root = common_folder(files)
    folder = args.out or args.run / "predictions"
    pictures = picture_files(files, root, folder / PICTURES_FOLDER) if args.draw else {}
    run = read_run(args.run, weights=args.weights, device=args.device)
    best = best_thresholds(run) if args.score is None else None
    model = load_model(run)
    print(progress_sentence(run, model))
    if best is None:
        thresholds = Thresholds((args.score,) * len(model.class_names))
    else:
        thresholds = automatic(best, model.class_names)
        print(f"\n{thresholds.table}\n{_remarks(run, thresholds)}")
    folder.mkdir(parents=True, exist_ok=True)
    output = CocoFile(model.class_names, thresholds.scores, root, _info(run, model))
    results = detect(model.model, run.cfg, files, batch_size=args.batch or _default_batch(run))
    failed = _collect(results, len(files), output, thresholds, pictures, model.class_names)
    text = json.dumps(output.content, allow_nan=False)  # in one line: it may have a million boxes
    write_text(folder / PREDICTIONS_FILE, f"{text}\n")
    print(f"{output.summary}: {folder / PREDICTIONS_FILE}")
    if pictures and len(files) > failed:
        print(f"Pictures: {folder / PICTURES_FOLDER}")
    if failed:
        print(f"{failed} of {count_text(len(files), 'file')} could not be read.", file=sys.stderr)
    return 1 if failed else 0


def _collect(
    results: Iterable[Detected | Unreadable],
    total: int,
    output: CocoFile,
    thresholds: Thresholds,
    pictures: dict[Path, Path],
    class_names: tuple[str, ...],
) -> int:
    """Write one result after the other; return the number of files that could not be read."""
    failed = 0
    for result in tqdm(results, total=total, unit="images", disable=None):
        if isinstance(result, Unreadable):
            failed += 1
            output.add_unreadable(result)
            _say(f"{result.file}: {result.reason}")
            continue
        if result.note:
            _say(result.note)
        entries = output.add(result, shown(result.instances, thresholds))
        if pictures:
            picture = draw_picture(result.file, entries, class_names)
            save_picture(picture, pictures[result.file])
    return failed


def shown(instances: Instances, thresholds: Thresholds) -> Instances:
    """Return the instances whose score reaches the threshold of their class."""
    needed = torch.tensor(thresholds.scores, dtype=torch.float64)
    return instances[instances.scores.double() >= needed[instances.pred_classes]]


def _say(sentence: str) -> None:
    tqdm.write(sentence, file=sys.stderr)


def _default_batch(run: TrainedRun) -> int:
    return 1 if run.cfg.MODEL.DEVICE == "cpu" else 8


def _remarks(run: TrainedRun, thresholds: Thresholds) -> str:
    remarks = []
    if "*" in thresholds.table:
        remarks.append("* never found there, so the threshold of all classes is used.")
    if run.has_other_weights:
        remarks.append("The thresholds are of the last evaluation of the run, not of --weights.")
    return "\n".join([*remarks, ""])


def _info(run: TrainedRun, model: TrainedModel) -> dict[str, object]:
    return {
        "description": "predictions of focal-plugin predict",
        "run": str(run.folder),
        "weights": str(run.weights),
        "iterations": model.iterations,
    }
