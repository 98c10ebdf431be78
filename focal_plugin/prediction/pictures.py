"""Pictures with boxes, class names and scores, below names that do not collide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data.detection_utils import read_image
from PIL import Image

from ..compare.report.pictures import COLORS, LabeledBox, draw_boxes

SUFFIXES = (".jpg", ".jpeg", ".png")
"""Suffixes of images whose picture has the same format and name."""

SMALL = 480
"""Longer side in pixels below which a picture is enlarged, so that its text can be read."""


def picture_files(files: Sequence[Path], root: Path, folder: Path) -> dict[Path, Path]:
    """
    Return the file of the picture of each image.

    A picture has the place of its image below ``root``, so two images of one name in two folders
    have two pictures. An image of another format gets a JPEG: `a.tif.jpg`.

    Args:
        files: images below ``root``, each once.
        root: folder that holds all of them.
        folder: folder of the pictures.

    Raises:
        ValueError: a picture would replace an image.
    """
    images = {file.resolve() for file in files}
    names: dict[Path, Path] = {}
    taken: set[Path] = set()
    kept_first = sorted(files, key=lambda file: file.suffix.lower() not in SUFFIXES)
    for file in kept_first:
        names[file] = _free(folder / file.relative_to(root), taken)
        taken.add(names[file])
        if names[file].resolve() in images:
            raise ValueError(
                f"the picture of {file} would replace an image, {names[file]}: choose another --out"
            )
    return names


def _free(wanted: Path, taken: set[Path]) -> Path:
    name = wanted if wanted.suffix.lower() in SUFFIXES else wanted.with_name(f"{wanted.name}.jpg")
    number = 1
    free = name
    while free in taken:
        number += 1
        free = name.with_name(f"{name.stem}-{number}{name.suffix}")
    return free


def draw_picture(
    image: Path, entries: Sequence[dict[str, Any]], class_names: Sequence[str]
) -> Image.Image:
    """
    Draw the detections of an image, in its EXIF orientation.

    Args:
        entries: annotations in COCO's format; category k + 1 is class k.
        class_names: names of the classes.
    """
    picture = Image.fromarray(read_image(str(image), format="RGB"))
    longer = max(picture.size)
    scale = max(1, round(SMALL / longer))
    boxes = [
        LabeledBox(
            tuple(entry["bbox"]),
            f"{class_names[entry['category_id'] - 1]} {entry['score']:.2f}",
            COLORS[(entry["category_id"] - 1) % len(COLORS)],
        )
        for entry in sorted(entries, key=lambda entry: entry["score"])  # the best on top
    ]
    side = longer * scale
    return draw_boxes(
        picture,
        boxes,
        scale=scale,
        font_size=max(12, side // 60),
        line_width=max(2, side // 400),
    )


def save_picture(picture: Image.Image, file: Path) -> None:
    """Save a picture in the format of its suffix, and make its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, quality=90)
