"""The built-in data set, and a user's own ones."""

from .builtin import register_shapes
from .check import check_coco, drop_impossible_boxes
from .class_counts import count_objects
from .facts import DATASET_FACTS, describe_dataset
from .findings import DataError, Finding, Report, raise_if_any_is_bad, write_reports
from .painting import ShapesSpec
from .preflight import check_classes, check_datasets, is_strict, log_reports, report_datasets
from .registration import parse_dataset_argument, register_coco_dataset
from .shapes import draw_dataset

__all__ = [
    "DATASET_FACTS",
    "DataError",
    "Finding",
    "Report",
    "ShapesSpec",
    "check_classes",
    "check_coco",
    "check_datasets",
    "count_objects",
    "describe_dataset",
    "draw_dataset",
    "drop_impossible_boxes",
    "is_strict",
    "log_reports",
    "parse_dataset_argument",
    "raise_if_any_is_bad",
    "register_coco_dataset",
    "register_shapes",
    "report_datasets",
    "write_reports",
]
