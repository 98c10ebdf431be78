"""Names of the annotations in Detectron2's dataset dicts, which do not hold their ids."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class AnnotationNames:
    """
    Finds the annotation in a COCO file that an object of a dataset dict was loaded from.

    The file is read when it is first needed, which is only the case if something is wrong.

    Args:
        json_file: None: an object is named by its position in the image.
        category_ids: the category id of each class; None if unknown.
    """

    def __init__(self, json_file: Path | None, category_ids: Sequence[Any] | None) -> None:
        self._file = json_file
        self._classes = {x: index for index, x in enumerate(category_ids or ())}
        self._by_image: dict[Any, list[dict[str, Any]]] | None = None

    def of_image(self, image_id: Any) -> list[dict[str, Any]]:
        """Return the annotations of an image in the order of the file."""
        if self._file is None:
            return []
        if self._by_image is None:
            self._by_image = defaultdict(list)
            for annotation in json.loads(self._file.read_text(encoding="utf-8"))["annotations"]:
                self._by_image[annotation.get("image_id")].append(annotation)
        return self._by_image.get(image_id, [])

    def matched(self, image: dict[str, Any]) -> list[dict[str, Any] | None]:
        """Return the annotation of each object of a dataset dict; the loader keeps their order."""
        written = iter(self.of_image(image.get("image_id")))
        return [
            next((x for x in written if self._key(x) == _key(annotation)), None)
            for annotation in image.get("annotations", ())
        ]

    def not_loaded(self, image: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the annotations of the file that the dataset dict does not hold."""
        loaded = {id(x) for x in self.matched(image)}
        return [x for x in self.of_image(image["image_id"]) if id(x) not in loaded]

    def about(self, image: dict[str, Any], position: int, reason: str) -> dict[str, Any]:
        """Return the arguments of `Findings.add` for an object of a dataset dict."""
        annotation = None if self._file is None else self.matched(image)[position]
        if annotation is not None:
            return about_annotation(annotation, image, reason)
        image_id = image.get("image_id")
        where = f"object {position} of image {image_id!r} ({image.get('file_name')})"
        return {"message": f"{where}: {reason}", "image_id": image_id}

    def _key(self, annotation: dict[str, Any]) -> tuple[Any, str]:
        category = annotation.get("category_id")
        return self._classes.get(category, category), str(annotation.get("bbox"))


def about_annotation(
    annotation: dict[str, Any], image: dict[str, Any], reason: str
) -> dict[str, Any]:
    """Return the arguments of `Findings.add` for an annotation of a COCO file."""
    annotation_id, image_id = annotation.get("id"), image.get("image_id")
    where = f"annotation {annotation_id!r} of image {image_id!r} ({image.get('file_name')})"
    return {
        "message": f"{where}: {reason}",
        "image_id": image_id,
        "annotation_id": annotation_id,
    }


def _key(annotation: dict[str, Any]) -> tuple[Any, str]:
    return annotation.get("category_id"), str(annotation.get("bbox"))
