"""Images of a dataset with boxes."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from ...pages.text import plain

SCALE = 3
GAP = 6
FONT_SIZE = 11
LINES = 3  # a smaller box would be hidden by its text
WHITE = (255, 255, 255)
# One color per class, for color-blind readers (Okabe and Ito, without black)
COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)


@dataclass(frozen=True)
class LabeledBox:
    """Box (x, y, width, height), pixels, with its text and color."""

    box: tuple[float, float, float, float]
    text: str
    color: tuple[int, int, int]


class CocoImages:
    """Images and annotations of a COCO json."""

    def __init__(self, json_file: Path, image_root: Path) -> None:
        coco = json.loads(json_file.read_text(encoding="utf-8"))
        self._image_root = image_root
        self._files = {image["id"]: _file_name(image) for image in coco["images"]}
        self._names = {c["id"]: str(c.get("name")) for c in coco["categories"]}
        self._color = {id_: COLORS[i % len(COLORS)] for i, id_ in enumerate(sorted(self._names))}
        self._annotations: dict[int | str, list[dict[str, Any]]] = {}
        for annotation in coco["annotations"]:
            self._annotations.setdefault(annotation["image_id"], []).append(annotation)

    def open(self, image_id: int | str) -> Image.Image:
        """
        Load an image.

        Raises:
            ValueError: the json names no file, or one outside the folder of the images.
            OSError: the file does not exist or is not an image.
        """
        if not self._files[image_id]:
            raise ValueError(f"image {image_id} has no file_name")
        name = os.path.normpath(self._files[image_id])
        if os.path.isabs(name) or name.startswith(".."):
            raise ValueError(f"image {image_id} is {name}, which is outside {self._image_root}")
        return Image.open(self._image_root / name).convert("RGB")

    def name(self, category_id: int | str) -> str:
        """Return the name of a category."""
        return self._names[category_id]

    def objects(self, image_id: int | str) -> list[dict[str, Any]]:
        """Return the annotations of an image, as in the json."""
        return self._annotations.get(image_id, [])

    def ground_truth(self, image_id: int | str, *, colored: bool = False) -> list[LabeledBox]:
        """Return boxes with class names in the colors of the classes, or plain white boxes."""
        boxes = []
        for annotation in self.objects(image_id):
            category = annotation["category_id"]
            crowd = " (crowd)" if annotation.get("iscrowd") else ""
            text = self._names[category] + crowd if colored else ""
            color = self._color[category] if colored else WHITE
            boxes.append(LabeledBox(tuple(annotation["bbox"]), text, color))
        return boxes


def _file_name(image: dict[str, Any]) -> str:
    """Return the file of an image; LVIS names it, with its folder, at the end of `coco_url`."""
    return image.get("file_name") or "/".join(image.get("coco_url", "").split("/")[-2:])


def draw_boxes(
    image: Image.Image,
    boxes: list[LabeledBox],
    *,
    scale: float = SCALE,
    font_size: int = FONT_SIZE,
    line_width: int = 2,
    sparse: bool = False,
) -> Image.Image:
    """
    Return the image, enlarged ``scale`` times, with the boxes on it.

    Args:
        sparse: leave out the text of a box that is not three lines high and wide, and a text that
            would cover an earlier one.
    """
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    canvas = image.resize(size, resampling)
    draw = ImageDraw.Draw(canvas)
    for labeled in boxes:
        x, y, width, height = (scale * value for value in labeled.box)
        draw.rectangle((x, y, x + width, y + height), outline=labeled.color, width=line_width)
    drawn: list[Area] = []
    for labeled in boxes:  # texts on top of boxes
        if not labeled.text:
            continue
        text = plain(labeled.text)  # one line
        area = _area_of_text(text, labeled.box, scale, _font(font_size), canvas.width)
        small = scale * min(labeled.box[2:]) < LINES * font_size
        if sparse and (small or any(_meet(area, other) for other in drawn)):
            continue
        drawn.append(area)
        draw.rectangle(area, fill=(0, 0, 0))
        draw.text((area[0] + 2, area[1]), text, fill=labeled.color, font=_font(font_size))
    return canvas


Area = tuple[float, float, float, float]  # left, top, right, bottom


def _area_of_text(
    text: str, box: Area, scale: float, font: ImageFont.FreeTypeFont, width: int
) -> Area:
    """Return where a text is: above its box (x, y, width, height), or inside at the edge."""
    x, y = scale * box[0], scale * box[1]
    _, _, right, bottom = font.getbbox(text)
    x = max(0.0, min(x, width - right - 3))
    y = y - bottom - 2 if y >= bottom + 2 else y + 2
    return x, y, x + right + 3, y + bottom + 1


def _meet(a: Area, b: Area) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """
    Return DejaVu Sans; the default of Pillow differs by version and may lack characters.

    The basic layout is the same on every machine. Raqm is used only where its libraries are
    installed, and it fails on some texts.
    """
    file = f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


def tile(images: list[Image.Image], columns: int) -> Image.Image:
    """Return one image with the images in rows, on white."""
    width, height = max(i.width for i in images), max(i.height for i in images)
    rows = math.ceil(len(images) / columns)
    size = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    sheet = Image.new("RGB", size, WHITE)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * (width + GAP), row * (height + GAP)))
    return sheet
