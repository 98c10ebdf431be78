"""
Predictions as one COCO file: images, categories and annotations, each with its score.

Such a file is complete in itself. `focal-plugin check-data` and labeling tools read it like any
annotations, and `annotations` is a list in COCO's result format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from ..compare.report.cells import count_text
from .detector import Detected, Unreadable


class CocoFile:
    """
    Content of `predictions.json`, which grows by one image after the other.

    Category k + 1 is class k of the model. The file names are relative to ``image_root``.

    Args:
        class_names: names of the classes.
        scores: score threshold of each class.
        image_root: folder that holds all images.
        info: facts about the run, for the reader.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        scores: Sequence[float],
        image_root: Path,
        info: dict[str, Any],
    ) -> None:
        self._categories = [
            {"id": k + 1, "name": name, "score_threshold": score}
            for k, (name, score) in enumerate(zip(class_names, scores, strict=True))
        ]
        self._root = image_root
        self._info = {**info, "image_root": str(image_root)}
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._unreadable: list[dict[str, str]] = []

    def add(self, image: Detected, shown: Instances) -> list[dict[str, Any]]:
        """
        Add an image with the detections that are shown.

        Returns:
            its entries in the list of annotations.
        """
        number = len(self._images) + 1
        name = str(image.file.relative_to(self._root))
        size = {"width": image.width, "height": image.height}
        self._images.append({"id": number, "file_name": name, **size})
        first = len(self._annotations)
        for entry in instances_to_coco_json(shown, number):
            _, _, width, height = entry["bbox"]
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    **entry,
                    "category_id": entry["category_id"] + 1,
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        return self._annotations[first:]

    def add_unreadable(self, file: Unreadable) -> None:
        """Note a file that could not be read."""
        name = str(file.file.relative_to(self._root))
        self._unreadable.append({"file_name": name, "reason": file.reason})

    @property
    def content(self) -> dict[str, Any]:
        """The file, as JSON."""
        return {
            "info": self._info,
            "images": self._images,
            "categories": self._categories,
            "annotations": self._annotations,
            "unreadable": self._unreadable,
        }

    @property
    def summary(self) -> str:
        """Numbers of images, of objects found, and of those of each class, most frequent first."""
        counts = Counter(entry["category_id"] - 1 for entry in self._annotations)
        named = ((count, self._categories[k]["name"]) for k, count in counts.most_common())
        each = ", ".join(f"{count} {name}" for count, name in named)
        objects = count_text(len(self._annotations), "object") + (f" ({each})" if each else "")
        return f"{count_text(len(self._images), 'image')}, {objects}"
