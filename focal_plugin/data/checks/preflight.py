"""The data sets of a config, checked against it before anything runs."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from .check_coco import check_coco, check_dicts
from .facts import find_json
from .findings import DataError, Report, raise_if_any_is_bad
from .rules import Severity

logger = logging.getLogger(__name__)

KEY = "MODEL.FOCAL.DATA.CHECK"
CHOICES = ("normal", "strict", "drop")

# Which key of a meta-architecture is its number of classes; those not named have none, or their own
NUM_CLASSES_NODE = {
    "FocalRetinaNet": "RETINANET",
    "RetinaNet": "RETINANET",
    "GeneralizedRCNN": "ROI_HEADS",
    "PanopticFPN": "ROI_HEADS",
}

# Other formats with a `json_file`: what COCO's says about it would be wrong
OTHER_FORMATS = {"lvis"}

DROPPED: dict[str, Severity] = {"box-negative": "warning", "box-infinite": "warning"}
"""What `drop_impossible_boxes` drops is no error any more."""

NUM_NAMED = 10
"""How many classes a message names."""


def check_classes(cfg: CfgNode) -> None:
    """
    The part of :func:`check_datasets` that reads no file and draws no built-in data set.

    Raises:
        KeyError: no data set has a name that `DATASETS.TRAIN` or `DATASETS.TEST` gives.
        DataError: the model's number of classes is not that of a data set, as far as that is known
            without reading it; the message states both. With one class too few, Detectron2 trains
            the last one as background.
    """
    for name in _names(cfg):
        _check_name(name)
        problem = _class_count_problem(cfg, name, in_file=None)
        if problem is not None:
            raise DataError(problem)


def check_datasets(
    cfg: CfgNode, *, allow_outside_root: bool = False, training: bool = True
) -> list[Report]:
    """
    Find out before the first iteration what Detectron2 finds after the last one, or never.
    `MODEL.FOCAL.DATA.CHECK` says what is an error.

    Called by all processes; the main one reads, the others wait for it.

    Args:
        cfg: as it will be trained or evaluated.
        allow_outside_root: image files may lie outside the image folder of their data set.
        training: False: of data sets for training only, no more is checked than in
            :func:`check_classes`; to evaluate, they need not be there.

    Returns:
        one report for each data set, in the main process; an empty list in the others. They are
        not logged, because logs start when all that can be wrong is known: :func:`log_reports`.

    Raises:
        KeyError: no data set has a name that `DATASETS.TRAIN` or `DATASETS.TEST` gives.
        FileNotFoundError: an annotation file or an image folder is not there.
        DataError: there is something wrong, with all of it in the message. It is a ValueError.
        ValueError: `MODEL.FOCAL.DATA.CHECK` is none of its choices.
    """
    strict = is_strict(cfg)
    reports = []
    if not training:
        check_classes(cfg)
        cfg = cfg.clone()
        cfg.DATASETS.TRAIN = ()
    if comm.is_main_process():
        reports = report_datasets(cfg, allow_outside_root=allow_outside_root)
        raise_if_any_is_bad(reports, strict=strict)
    comm.synchronize()
    return reports


def is_strict(cfg: CfgNode) -> bool:
    """
    Whether the config takes warnings for errors.

    Raises:
        ValueError: `MODEL.FOCAL.DATA.CHECK` is none of its choices.
    """
    mode = cfg.MODEL.FOCAL.DATA.CHECK
    if mode not in CHOICES:
        raise ValueError(f"{KEY} must be one of {', '.join(map(repr, CHOICES))}, got {mode!r}")
    return mode == "strict"


def log_reports(reports: Iterable[Report]) -> None:
    """One line for each data set, and its warnings."""
    for report in reports:
        level = logging.WARNING if report.num("warning") else logging.INFO
        logger.log(level, "\n  ".join([report.summary(), *report.lines(["warning"])]))


def report_datasets(
    cfg: CfgNode,
    *,
    allow_outside_root: bool = False,
    decode_images: bool = False,
    max_json_mib: float | None = None,
) -> list[Report]:
    """
    Same interface as :func:`check_coco`, but for the data sets of a config, each once; what is
    wrong is in the reports and not raised. The severities are those that the config asks for.

    Raises:
        KeyError: no data set has a name that the config gives.
        FileNotFoundError: an annotation file or an image folder is not there.
    """
    names = _names(cfg)
    for name in names:
        _check_name(name)
    reports = []
    for name in names:
        report = _report_one(
            name,
            allow_outside_root=allow_outside_root,
            decode_images=decode_images,
            max_json_mib=max_json_mib,
        )
        problem = _class_count_problem(cfg, name, in_file=report.facts.get("classes"))
        if problem is not None:
            report = report.with_finding("num-classes", problem)
        reports.append(report)
    reports = _compare_classes(reports)
    return _for_their_use(cfg, reports)


def _names(cfg: CfgNode) -> list[str]:
    return list(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))


def _check_name(name: str) -> None:
    known = DatasetCatalog.list()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "--dataset registers one"
        raise KeyError(f"no data set is named {name!r}; {hint}")


def _report_one(
    name: str, *, allow_outside_root: bool, decode_images: bool, max_json_mib: float | None
) -> Report:
    metadata = MetadataCatalog.get(name)
    json_file = find_json(name)
    if json_file is None or metadata.get("evaluator_type") in OTHER_FORMATS:
        dicts = DatasetCatalog.get(name)
        classes = MetadataCatalog.get(name).get("thing_classes")
        report = check_dicts(dicts, num_classes=None if classes is None else len(classes))
        return replace(report, name=name)
    root = metadata.get("image_root")
    report = check_coco(
        json_file,
        None if root is None or "://" in root else Path(root),
        allow_outside_root=allow_outside_root,
        decode_images=decode_images,
        max_json_mib=max_json_mib,
    )
    return replace(report, name=name)


def _class_count_problem(cfg: CfgNode, name: str, *, in_file: Sequence[str] | None) -> str | None:
    """What is wrong with the number of classes of model, metadata and annotation file, if it is."""
    node = NUM_CLASSES_NODE.get(cfg.MODEL.META_ARCHITECTURE)
    known = MetadataCatalog.get(name).get("thing_classes")
    num_known, num_in_file = (None if x is None else len(x) for x in (known, in_file))
    num_classes = None if node is None else cfg.MODEL[node].NUM_CLASSES
    if len({num_classes, num_known, num_in_file} - {None}) < 2:
        return None
    model = f"MODEL.{node}.NUM_CLASSES is {num_classes}, but " if node else ""
    counts = []
    if known is not None:
        counts.append(f"data set {name!r} has {num_known} classes: {_listed(known)}")
    if in_file is not None:
        counts.append(f"its annotation file has {num_in_file} categories: {_listed(in_file)}")
    return model + "; ".join(counts)


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(classes[:NUM_NAMED]) + (", ..." if len(classes) > NUM_NAMED else "")


def _compare_classes(reports: list[Report]) -> list[Report]:
    """Names at the same place that differ mean that one class is evaluated as another."""
    if not reports or reports[0].facts.get("classes") is None:
        return reports
    first, *others = reports
    expected, compared = first.facts["classes"], [first]
    for report in others:
        classes = report.facts.get("classes")
        if classes is not None and classes != expected:
            message = f"{_listed(classes)}; those of {first.name!r}: {_listed(expected)}"
            report = report.with_finding("classes-differ", message)
        compared.append(report)
    return compared


def _for_their_use(cfg: CfgNode, reports: list[Report]) -> list[Report]:
    """With the severities that follow from what the config does with each data set."""
    training = [report for report in reports if report.name in cfg.DATASETS.TRAIN]
    without_objects = all(report.counts.get("no-objects") for report in training)
    used = []
    for report in reports:
        severities: dict[str, Severity] = {}
        is_tested = report.name in cfg.DATASETS.TEST
        if is_tested:
            severities["annotation-area"] = "error"  # the evaluation asks for it
        elif cfg.MODEL.FOCAL.DATA.CHECK == "drop":
            severities.update(DROPPED)
        if (
            report.name in cfg.DATASETS.TRAIN
            and without_objects
            and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        ):
            severities["no-objects"] = "error"
        used.append(report.with_severity(severities))
    return used
