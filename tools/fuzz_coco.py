#!/usr/bin/env python3
"""
Change a valid COCO file at random, and compare what the data check says with what a run does.

    python tools/fuzz_coco.py                           # 2,000 files
    python tools/fuzz_coco.py --first 1234 --files 1    # one of them again

Each file passes through the check of a training and an evaluation. If the check finds no error,
Detectron2's loader and mapper, the evaluation and the report must see what the check has counted:
as many objects of each class, an AP of 100 for perfect detections, and the same AP in the report.
Every second file is trained with masks. An exception, or a difference that no warning names, is a
failure. It is printed with the number of the file, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from coco_mutations import mutate, valid_dataset
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from tqdm import tqdm

from focal_plugin import get_cfg
from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.data import (
    DataError,
    Report,
    parse_dataset_argument,
    register_coco_dataset,
    report_datasets,
)
from focal_plugin.data.loading.image_cache import build_train_mapper
from focal_plugin.data.loading.training_set import load_training_set
from focal_plugin.engine.evaluation import build_coco_evaluator
from focal_plugin.run_folder import DETECTIONS_FILE, DETECTIONS_FOLDER

FILES = 2000
DROPPING = (
    *("annotation-without-image", "box-nan", "box-empty", "box-outside-image", "object-lost"),
)
"""Warnings that name annotations which training does not see."""

MISSED = ("box-empty", "area-ignored", "object-not-evaluated")
"""Warnings that name objects which no detection can find."""


class Verdict(NamedTuple):
    """
    Result of one file.

    Attributes:
        kind: "refused": the check found an error. "warned": it found a warning, and the run did
            what the check said. "clean": it found neither. Others are failures.
        detail: rules, or what went wrong.
    """

    kind: Literal["refused", "warned", "clean", "silent", "exception"]
    detail: str

    @property
    def failed(self) -> bool:
        """True for an exception, and for a difference that no finding names."""
        return self.kind in ("silent", "exception")


def judge(json_file: Path, image_root: Path, *, masks: bool = False) -> Verdict:
    """
    Check a file, then load, evaluate and report it as a run does.

    Args:
        json_file: annotation file; its name must be new, because detectron2 registers it.
        masks: train with masks.
    """
    name = str(json_file)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _judge(name, json_file, image_root, masks=masks)
    except Exception as error:  # any is a failure
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return Verdict("exception", f"{type(error).__name__} in {where}: {error!s:.200}")
    finally:
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def _judge(name: str, json_file: Path, image_root: Path, *, masks: bool) -> Verdict:
    cfg = _config(name, masks=masks)
    try:
        register_coco_dataset(parse_dataset_argument(f"{name}={json_file}:{image_root}"))
    except DataError as error:
        return Verdict("refused", str(error).splitlines()[0])
    (report,) = report_datasets(cfg, decode_images=True)
    "\n".join([report.summary(), *report.lines(("error", "warning", "note"))]).encode()
    json.dumps(report.to_json(), allow_nan=False)
    if report.is_bad():
        return Verdict("refused", ", ".join(sorted(report.counts)))
    found, promised = trained_objects(cfg), promised_objects(report, json_file)
    if found != promised:
        numbers = f"{sorted(found.items())} in training, {sorted(promised.items())} promised"
        return Verdict("silent", f"objects by class: {numbers}")
    in_run, in_report = perfect_ap(name, json_file.with_suffix(""))
    is_perfect = in_run > 99.9 or (math.isnan(in_run) and not promised.total())
    if not (is_perfect or any(map(report.counts.get, MISSED))):
        return Verdict("silent", f"perfect detections have AP {in_run:.1f}")
    if abs(in_run - in_report) > 1e-6 or math.isnan(in_run) != math.isnan(in_report):
        return Verdict("silent", f"AP {in_run:.3f}, but {in_report:.3f} in the report")
    warned = report.num("warning") > 0
    return Verdict("warned" if warned else "clean", ", ".join(sorted(report.counts)))


def _config(name: str, *, masks: bool) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN" if masks else "FocalRetinaNet"
    cfg.MODEL.MASK_ON = masks
    cfg.MODEL.RETINANET.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (48,), "none"
    return cfg


def promised_objects(report: Report, json_file: Path) -> Counter[int]:
    """Return class -> number of objects that the check counted, without those it calls dropped."""
    content = json.loads(json_file.read_text(encoding="utf-8"))
    annotations = {annotation["id"]: annotation for annotation in content["annotations"]}
    class_of = {id_: index for index, id_ in enumerate(report.facts["category_ids"])}
    promised = Counter(dict(enumerate(report.facts["annotations_per_class"])))
    for annotation_id in {x.annotation_id for x in report.findings if x.rule in DROPPING}:
        annotation = annotations[annotation_id]
        if not (annotation.get("iscrowd") or annotation.get("ignore")):
            promised[class_of[annotation["category_id"]]] -= 1
    return promised


def trained_objects(cfg: CfgNode) -> Counter[int]:
    """Return class -> number of objects that Detectron2's loader and the mapper leave."""
    mapper = build_train_mapper(cfg, crowds=False)
    mapped = map(mapper, load_training_set(cfg))
    return Counter(x for image in mapped for x in image["instances"].gt_classes.tolist())


def perfect_ap(name: str, folder: Path) -> tuple[float, float]:
    """
    Return the AP of detections that are the objects: of the evaluation, and of the report.

    Both are NaN if there are no objects.
    """
    evaluator = build_coco_evaluator(name, str(folder / DETECTIONS_FOLDER))
    evaluator.reset()
    dicts = DatasetCatalog.get(name)
    for image in dicts:
        objects = [x for x in image["annotations"] if not x.get("iscrowd")]
        boxes = torch.tensor([x["bbox"] for x in objects]).float().view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found = Instances((image["height"], image["width"]))
        found.pred_boxes = Boxes(boxes)
        found.scores = torch.ones(len(objects))
        found.pred_classes = torch.tensor([x["category_id"] for x in objects]).long()
        evaluator.process([image], [{"instances": found}])
    in_run: Any = evaluator.evaluate()["bbox"]["AP"]
    evaluation = evaluate(Path(MetadataCatalog.get(name).json_file), folder / DETECTIONS_FILE)
    in_report = evaluation.average_precision().averages["AP"]
    return float(in_run), 100 * float(in_report)


def run(numbers: range, *, progress: bool = False) -> dict[int, tuple[Verdict, tuple[str, ...]]]:
    """Return number -> verdict and changes of each file."""
    verdicts = {}
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder, "images")
            images.mkdir()
            valid = valid_dataset(images)
            for number in tqdm(numbers, unit="files", disable=None if progress else True):
                file = Path(folder, f"{number}.json")
                mutant = mutate(valid, str(number))
                file.write_bytes(mutant.raw)
                verdicts[number] = judge(file, images, masks=number % 2 == 1), mutant.changes
    finally:
        logging.disable(logging.NOTSET)
    return verdicts


def main(argv: list[str] | None = None) -> int:
    """Judge the files of the command line; return 1 if one of them is a failure."""
    description, _, details = (__doc__ or "").strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--files", type=int, default=FILES, help=f"number of files, {FILES}")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--all", action="store_true", help="print every file, not only failures")
    args = parser.parse_args(argv)
    verdicts = run(range(args.first, args.first + args.files), progress=True)
    for number, (verdict, changes) in verdicts.items():
        if verdict.failed or args.all:
            print(f"{number}: {verdict.kind}: {verdict.detail} | {'; '.join(changes)!a}")
    kinds = Counter(verdict.kind for verdict, _ in verdicts.values())
    print(f"{len(verdicts)} files: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()))
    failed = [number for number, (verdict, _) in verdicts.items() if verdict.failed]
    if failed:
        print(f"To repeat: python tools/fuzz_coco.py --files 1 --first {failed[0]}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
