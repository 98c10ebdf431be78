"""The built-in dataset, and registration and checks of custom datasets."""

from .checks.as_trained import compare_with_training
from .checks.check_coco import check_coco, drop_impossible_boxes
from .checks.facts import DATASET_FACTS, describe_dataset
from .checks.findings import DataError, Finding, Report, raise_if_any_is_bad, write_reports
from .checks.preflight import (
    check_classes,
    check_datasets,
    is_strict,
    log_reports,
    num_classes_of_model,
    report_dataset,
    report_datasets,
)
from .class_counts import count_images, count_objects
from .dataset_arguments import (
    check_ignored,
    register_datasets,
    registered,
    unused_datasets,
    use_datasets,
)
from .registration import DatasetArgument, parse_dataset_argument, register_coco_dataset
from .shapes.builtin import register_shapes
from .shapes.dataset import draw_dataset
from .shapes.painting import ShapesSpec
from .splits import Split, coco_file_of, fold_coco, one_sided_classes, split_coco

__all__ = [
    "DATASET_FACTS",
    "DataError",
    "DatasetArgument",
    "Finding",
    "Report",
    "ShapesSpec",
    "Split",
    "check_classes",
    "check_coco",
    "check_datasets",
    "check_ignored",
    "coco_file_of",
    "compare_with_training",
    "count_images",
    "count_objects",
    "describe_dataset",
    "draw_dataset",
    "drop_impossible_boxes",
    "fold_coco",
    "is_strict",
    "log_reports",
    "num_classes_of_model",
    "one_sided_classes",
    "parse_dataset_argument",
    "raise_if_any_is_bad",
    "register_coco_dataset",
    "register_datasets",
    "register_shapes",
    "registered",
    "report_dataset",
    "report_datasets",
    "split_coco",
    "unused_datasets",
    "use_datasets",
    "write_reports",
]
