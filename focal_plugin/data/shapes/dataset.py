"""
The built-in data set: textured images with few objects and many things that only look like one.

An object is a solid, whole shape of one of five classes, about as wide as high. Outlines, fragments
and squashed versions of the same shapes, in the same colours and sizes, are drawn beside them and
not annotated: they are the hard negatives. How many there are of each is the dial of foreground-
background imbalance (:class:`ShapesSpec`). Which class a shape belongs to is easy to see, by its
colour; whether it is an object or background is not.

The same spec gives the same files, byte by byte, on every machine.

    python -m focal_plugin.data.shapes --help
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .painting import CLASSES, VERSION, ShapesSpec, draw_image
from .png import encode_png


def draw_dataset(spec: ShapesSpec, folder: Path) -> None:
    """
    Draw a whole data set as `folder/annotations.json` (COCO format) and `folder/images/*.png`.

    The folder appears under its name when it is complete, so that an interrupted call leaves
    nothing behind and two processes that draw at once do not harm each other.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (unfinished / "images").mkdir()
        coco = _empty_coco(spec)
        for file_name, image, annotations in _draw_all(spec):
            (unfinished / "images" / file_name).write_bytes(encode_png(image))
            _append(coco, file_name, image, annotations)
        text = json.dumps(coco, separators=(",", ":"), sort_keys=True)
        (unfinished / "annotations.json").write_text(text, encoding="utf-8")
        unfinished.chmod(0o755)  # mkdtemp made it private
        _publish(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _publish(unfinished: Path, folder: Path) -> None:
    try:
        os.rename(unfinished, folder)
    except OSError:
        if not folder.exists():  # otherwise another process was faster, with the same bytes
            raise


def _draw_all(spec: ShapesSpec) -> Iterator[tuple[str, np.ndarray, list[dict[str, Any]]]]:
    for index in range(spec.images):
        yield f"{index:06d}.png", *draw_image(spec, index)


def _empty_coco(spec: ShapesSpec) -> dict[str, Any]:
    return {
        "info": {"description": "focal_shapes", "version": VERSION, "spec": asdict(spec)},
        "licenses": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)],
        "images": [],
        "annotations": [],
    }


def _append(
    coco: dict[str, Any], file_name: str, image: np.ndarray, annotations: list[dict[str, Any]]
) -> None:
    height, width = image.shape[:2]
    image_id = len(coco["images"]) + 1
    coco["images"].append(
        {"id": image_id, "file_name": file_name, "height": height, "width": width}
    )
    for annotation in annotations:
        annotation_id = len(coco["annotations"]) + 1
        coco["annotations"].append({"id": annotation_id, "image_id": image_id, **annotation})
