"""Checks of the datasets of a config before training or evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ...names import did_you_mean
from .as_evaluated import compare_with_evaluation
from .as_trained import compare_with_training
from .check_coco import check_coco, check_dicts
from .facts import find_json
from .findings import DataError, Report, raise_if_any_is_bad
from .requirements import check_config_requirements
from .rules import Severity

logger = logging.getLogger(__name__)

KEY = "MODEL.FOCAL.DATA.CHECK"
CHOICES = ("normal", "strict", "drop")

# Config node with the number of classes, by meta-architecture. Others have none, or their own key.
NUM_CLASSES_NODE = {
    "FocalRetinaNet": "RETINANET",
    "RetinaNet": "RETINANET",
    "GeneralizedRCNN": "ROI_HEADS",
    "PanopticFPN": "ROI_HEADS",
}

# Other formats with a `json_file`, to which the rules for COCO do not apply
OTHER_FORMATS = {"lvis"}

DROPPED: dict[str, Severity] = {"box-negative": "warning", "box-infinite": "warning"}
"""Severities with `MODEL.FOCAL.DATA.CHECK` "drop": what is dropped is no longer an error."""

NUM_NAMED = 10
"""Number of classes that a message names."""


def num_classes_of_model(cfg: CfgNode) -> tuple[str, int] | None:
    """
    Return the key of a config that sets the number of classes of its detector, and that number.

    Returns:
        None for a detector without such a key, or with one of its own.
    """
    node = NUM_CLASSES_NODE.get(cfg.MODEL.META_ARCHITECTURE)
    return None if node is None else (f"MODEL.{node}.NUM_CLASSES", cfg.MODEL[node].NUM_CLASSES)


def check_classes(cfg: CfgNode) -> None:
    """
    Check class counts as in :func:`check_datasets`, but read no file and draw no built-in dataset.

    Raises:
        KeyError: a name in `DATASETS.TRAIN` or `DATASETS.TEST` is not registered.
        DataError: the number of classes of the model differs from that of a dataset, as far as
            known without reading it. The message states both. With one class too few, Detectron2
            trains the last class as background.
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
    Check the datasets of a config before the first iteration.

    Detectron2 finds such errors after the last iteration, or never. `MODEL.FOCAL.DATA.CHECK` sets
    which findings are errors. All processes call this function; the main process reads the files
    and the others wait for it.

    Args:
        cfg: config of the training or evaluation.
        allow_outside_root: allow image files outside the image folder of their dataset.
        training: False: datasets used only for training are checked as in :func:`check_classes`
            if they are registered, because an evaluation does not require them.

    Returns:
        one report per dataset in the main process; an empty list in the others. The reports are
        not logged, because logging starts after all checks: see :func:`log_reports`.

    Raises:
        KeyError: a name in `DATASETS.TRAIN` or `DATASETS.TEST` is not registered.
        FileNotFoundError: an annotation file or an image folder does not exist.
        DataError: a dataset has errors; the message lists all of them. It is a ValueError.
        ValueError: `MODEL.FOCAL.DATA.CHECK` is not one of its choices.
    """
    strict = is_strict(cfg)
    reports = []
    if not training:
        cfg = cfg.clone()
        known = DatasetCatalog.list()
        cfg.DATASETS.TRAIN = tuple(name for name in cfg.DATASETS.TRAIN if name in known)
        check_classes(cfg)
        cfg.DATASETS.TRAIN = ()
    if comm.is_main_process():
        reports = report_datasets(cfg, allow_outside_root=allow_outside_root)
        raise_if_any_is_bad(reports, strict=strict)
    comm.synchronize()
    return reports


def is_strict(cfg: CfgNode) -> bool:
    """
    Return True if the config treats warnings as errors.

    Raises:
        ValueError: `MODEL.FOCAL.DATA.CHECK` is not one of its choices.
    """
    mode = cfg.MODEL.FOCAL.DATA.CHECK
    if mode not in CHOICES:
        raise ValueError(f"{KEY} must be one of {', '.join(map(repr, CHOICES))}, got {mode!r}")
    return mode == "strict"


def log_reports(reports: Iterable[Report]) -> None:
    """Log one line for each dataset, and its warnings."""
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
    Return one report for each dataset of a config, without raising on errors.

    The other arguments are those of :func:`check_coco`. Severities follow the config.

    Raises:
        KeyError: a name in the config is not registered.
        FileNotFoundError: an annotation file or an image folder does not exist.
    """
    names = _names(cfg)
    for name in names:
        _check_name(name)
    reports = []
    for name in names:
        report = report_dataset(
            name,
            allow_outside_root=allow_outside_root,
            decode_images=decode_images,
            max_json_mib=max_json_mib,
        )
        problem = _class_count_problem(cfg, name, in_file=report.facts.get("classes"))
        if problem is not None:
            report = report.with_finding("num-classes", problem)
        reports.append(report)
    reports = _for_their_use(cfg, _compare_classes(reports))
    return [_compare_with_use(cfg, report) for report in reports]


def _names(cfg: CfgNode) -> list[str]:
    return list(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))


def _check_name(name: str) -> None:
    known = DatasetCatalog.list()
    if name not in known:
        # A name of one's own is near a name of COCO only by its end, such as "_train".
        hint = did_you_mean(name, known, cutoff=0.85)
        raise KeyError(
            f"no dataset is named {name!r}{hint}; register it with --dataset {name}=JSON:IMAGES"
        )


def report_dataset(
    name: str, *, allow_outside_root: bool, decode_images: bool, max_json_mib: float | None
) -> Report:
    """
    Return the report of a registered dataset, whatever its use.

    The other arguments are those of :func:`check_coco`.

    Raises:
        FileNotFoundError: the annotation file or the image folder does not exist.
    """
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
    report = replace(report, name=name)
    regions = str(metadata.get("ignore_regions", ""))
    return report.with_finding("ignore-regions", regions) if regions else report


def _class_count_problem(cfg: CfgNode, name: str, *, in_file: Sequence[str] | None) -> str | None:
    """Return how the class counts of model, metadata and annotation file differ, or None."""
    key, num_classes = num_classes_of_model(cfg) or (None, None)
    known = MetadataCatalog.get(name).get("thing_classes")
    num_known, num_in_file = (None if x is None else len(x) for x in (known, in_file))
    if len({num_classes, num_known, num_in_file} - {None}) < 2:
        return None
    model = f"{key} is {num_classes}, but " if key else ""
    counts = []
    if known is not None:
        counts.append(f"dataset {name!r} has {num_known} classes: {_listed(known)}")
    if in_file is not None:
        counts.append(f"its annotation file has {num_in_file} categories: {_listed(in_file)}")
    return model + "; ".join(counts)


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(classes[:NUM_NAMED]) + (", ..." if len(classes) > NUM_NAMED else "")


def _compare_classes(reports: list[Report]) -> list[Report]:
    """Report datasets with other class names: a class would be evaluated as another one."""
    known = [(report, _classes_of(report)) for report in reports]
    first = next(((report, classes) for report, classes in known if classes), None)
    if first is None:
        return reports
    compared = []
    for report, classes in known:
        if classes and classes != first[1]:
            message = f"{_listed(classes)}; those of {first[0].name!r}: {_listed(first[1])}"
            report = report.with_finding("classes-differ", message)
        compared.append(report)
    return compared


def _classes_of(report: Report) -> list[str] | None:
    known = report.facts.get("classes") or MetadataCatalog.get(report.name).get("thing_classes")
    return None if known is None else list(known)


def _compare_with_use(cfg: CfgNode, report: Report) -> Report:
    """Compare a dataset without errors with what training and evaluation see of it."""
    compare = {"TRAIN": compare_with_training, "TEST": compare_with_evaluation}
    for split, compare_with in compare.items():
        if report.name in cfg.DATASETS[split]:
            needed = check_config_requirements(cfg, report.name, split=split)
            report = report.with_findings(needed)
            if not report.num("error"):
                report = compare_with(cfg, report)
    return report


def _for_their_use(cfg: CfgNode, reports: list[Report]) -> list[Report]:
    """Return the reports with severities that follow from the use of each dataset."""
    training = [report for report in reports if report.name in cfg.DATASETS.TRAIN]
    empty = ("no-objects", "only-crowds")
    without_objects = all(any(map(report.counts.get, empty)) for report in training)
    used = []
    for report in reports:
        severities: dict[str, Severity] = {}
        if not cfg.MODEL.MASK_ON:
            severities["segmentation-unusable"] = "note"  # only boxes are loaded
        is_tested = report.name in cfg.DATASETS.TEST
        if is_tested:
            severities["annotation-area"] = "error"  # required by the evaluation
            severities["box-nan"] = "error"  # pycocotools matches it with every detection
        elif cfg.MODEL.FOCAL.DATA.CHECK == "drop":
            severities.update(DROPPED)
        if not is_tested and report.file is None:
            severities["image-id"] = "note"  # dicts without an id support training
        if report.name in cfg.DATASETS.TRAIN:
            severities["classes-differ"] = "error"  # Detectron2 refuses them together
            if without_objects:
                severities["only-crowds"] = "error"
                if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
                    severities["no-objects"] = "error"
        used.append(report.with_severity(severities))
    return used
