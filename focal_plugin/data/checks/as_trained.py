"""
Comparison of a training set with what Detectron2's loader and mapper leave of it.

The other rules describe the file. This one calls the functions that training calls, so that an
object that they drop for any other reason is named before the first iteration.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from ..loading.training_set import load_training_set
from ..segmentations import kind_of_segmentation
from .annotation_names import AnnotationNames, about_annotation
from .dict_rules import fault_of_box, is_outside
from .facts import read_content
from .findings import Findings, Report
from .mapped_objects import lost_by_mapper
from .requirements import check_requirements


def compare_with_training(cfg: CfgNode, report: Report) -> Report:
    """
    Add the objects of a training set that training would not see, and what the config lacks.

    Args:
        report: of a registered dataset, without errors.
    """
    if any(map(report.counts.get, ("no-objects", "only-crowds"))):
        return report  # nothing to lose
    found = Findings()
    try:
        with _no_logs():
            dicts = load_training_set(_only(cfg, report.name), check_consistency=False)
    except Exception as error:  # of any kind: a dataset may have a loader of its own
        proposals = "; an image has no proposals" if cfg.MODEL.LOAD_PROPOSALS else ""
        found.add("load-fails", f"{type(error).__name__}: {error}{proposals}")
        return report.with_findings(found)
    if isinstance(dicts, list):
        names = AnnotationNames(report.file, report.facts.get("category_ids"))
        check_requirements(cfg, dicts, names, found)
        if not any(finding.severity == "error" for finding in found.listed):
            _compare(cfg, report, dicts, names, found)
    return report.with_findings(found)


def _only(cfg: CfgNode, name: str) -> CfgNode:
    """Return a config that trains on one of the datasets."""
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.MODEL.LOAD_PROPOSALS:
        place = cfg.DATASETS.TRAIN.index(name)
        cfg.DATASETS.PROPOSAL_FILES_TRAIN = (cfg.DATASETS.PROPOSAL_FILES_TRAIN[place],)
    cfg.DATASETS.TRAIN = (name,)
    return cfg


@contextmanager
def _no_logs() -> Iterator[None]:
    """Leave what the loader logs to the run, which loads the data again."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _compare(
    cfg: CfgNode,
    report: Report,
    dicts: list[dict[str, Any]],
    names: AnnotationNames,
    found: Findings,
) -> None:
    loaded = Counter(
        x["category_id"]
        for image in dicts
        for x in image.get("annotations", ())
        if not x.get("iscrowd", 0)
    )
    not_loaded: Counter[int] = Counter()
    if report.file is not None:
        not_loaded = _add_not_loaded(cfg, report, report.file, dicts, names, found)
    with _no_logs():
        lost = lost_by_mapper(cfg, dicts)
    for image, position, reason, rule in lost:
        annotation = image["annotations"][position]
        in_file = report.file is not None
        if not (fault_of_box(annotation) or (in_file and is_outside(annotation, image))):
            found.add(rule, **names.about(image, position, reason))
    not_mapped = Counter(x.image["annotations"][x.position]["category_id"] for x in lost)
    classes = MetadataCatalog.get(report.name).get("thing_classes")
    for index, number in sorted((loaded + not_loaded).items()):
        if loaded[index] == not_mapped[index]:
            name = index if classes is None else classes[index]
            found.add("class-lost", f"{name}: {number} objects in the dataset, 0 in training")
    _check_sum(report.file, loaded + not_loaded, found)


def _check_sum(file: Path | None, accounted: Counter[int], found: Findings) -> None:
    """Report a class whose objects, trained and lost, are not those of the file."""
    counts = None if file is None else read_content(file).counts
    if counts is None:
        return
    for index, number in enumerate(counts.per_class):
        if accounted[index] != number:
            message = f"class {index}: {number} objects in the file, {accounted[index]} loaded"
            found.add("training-differs", message)


def _add_not_loaded(
    cfg: CfgNode,
    report: Report,
    file: Path,
    dicts: list[dict[str, Any]],
    names: AnnotationNames,
    found: Findings,
) -> Counter[int]:
    """Add the objects of the file that the dataset dicts do not hold; return them by class."""
    counts = read_content(file).counts
    category_ids = report.facts["category_ids"]
    if counts is None or category_ids is None:
        return Counter()
    by_id = {image["image_id"]: image for image in dicts}
    class_of = {category_id: index for index, category_id in enumerate(category_ids)}
    num: Counter[int] = Counter()
    for image_id, number in counts.per_image.items():
        image = by_id.get(image_id, {"image_id": image_id, "file_name": "not loaded"})
        objects = [x for x in image.get("annotations", ()) if not x.get("iscrowd", 0)]
        if len(objects) == number:
            continue
        for annotation in names.not_loaded(image):
            if annotation.get("iscrowd", 0):
                continue
            num[class_of[annotation["category_id"]]] += 1
            filtered = cfg.MODEL.KEYPOINT_ON and image_id not in by_id
            if not (filtered or _is_dropped_on_purpose(cfg, annotation)):
                segmentation = annotation.get("segmentation")
                reason = f"the loader of the dataset drops it; segmentation {segmentation!r:.80}"
                found.add("object-lost", **about_annotation(annotation, image, reason))
    return num


def _is_dropped_on_purpose(cfg: CfgNode, annotation: dict[str, Any]) -> bool:
    """Return True for what `MODEL.FOCAL.DATA.CHECK` "drop" drops and another rule counts."""
    if cfg.MODEL.FOCAL.DATA.CHECK != "drop":
        return False
    box_is_bad = fault_of_box({"bbox_mode": BoxMode.XYWH_ABS, **annotation}) is not None
    is_unusable = kind_of_segmentation(annotation.get("segmentation")) == "unusable"
    return box_is_bad or (cfg.MODEL.MASK_ON and is_unusable)
