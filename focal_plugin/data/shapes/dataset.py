"""
The built-in dataset: textured images with few objects and many look-alikes.

An object is a solid, whole shape of one of five classes, about as wide as high. Outlines, fragments
and squashed versions of the same shapes, in the same colors and sizes, are not annotated: they are
the hard negatives. The numbers of objects and look-alikes set the foreground-background imbalance
(:class:`ShapesSpec`). The color reveals the class of a shape. It does not reveal whether the shape
is an object or background.

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
    Draw a whole dataset as `folder/annotations.json` (COCO format) and `folder/images/*.png`.

    The folder appears under its name only when complete. An interrupted call therefore leaves no
    partial dataset, and two processes may draw at once.
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
        unfinished.chmod(0o755)  # mkdtemp creates a private folder
        _publish(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _publish(unfinished: Path, folder: Path) -> None:
    try:
        os.rename(unfinished, folder)
    except OSError:
        if not folder.exists():  # otherwise another process was faster and wrote the same bytes
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
