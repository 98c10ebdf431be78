"""The built-in data set, and a user's own ones."""

from .builtin import register_shapes
from .class_counts import count_objects
from .painting import ShapesSpec
from .registration import check_datasets, parse_dataset_argument, register_coco_dataset
from .shapes import draw_dataset

__all__ = [
    "ShapesSpec",
    "check_datasets",
    "count_objects",
    "draw_dataset",
    "parse_dataset_argument",
    "register_coco_dataset",
    "register_shapes",
]
