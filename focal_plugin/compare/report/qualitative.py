"""Images on which the arms differ most: ground truth, and the detections of each arm."""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from ..analysis.detection_analysis import ImageChoice
from ..analysis.detections.coco_json import read_entries
from .pictures import CocoImages, LabeledBox, draw_boxes, tile

CELL = 300
"""Width of a picture, pixels."""
FONT_SIZE = 15  # the page scales it down
MATCH_IOU = 0.5
COLORS_OF_PNG = 192  # reduces a photograph to a third of its size; boxes keep their color

WHITE, SKY, VERMILLION, GRAY = (255, 255, 255), (86, 180, 233), (255, 120, 40), (150, 150, 150)

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Row:
    """
    Pictures of one image.

    Attributes:
        pictures: ground truth, then each arm of the choice, as PNG.
        texts: description of each picture for screen readers.
    """

    image_id: int | str
    pictures: tuple[bytes, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """
    Pictures of all chosen images.

    Attributes:
        arms: columns after the ground truth.
        rows: one row per image.
        problems: sentences on images that could not be drawn.
    """

    arms: tuple[str, ...]
    rows: tuple[Row, ...]
    problems: tuple[str, ...]

    def sheet(self) -> bytes:
        """Return all pictures in one PNG, without text."""
        pictures: list[Image.Image] = [
            Image.open(io.BytesIO(p)) for row in self.rows for p in row.pictures
        ]
        return _png(tile(pictures, columns=len(self.arms) + 1))


def draw_grid(choice: ImageChoice, folder: Path) -> Grid:
    """
    Draw a row for each image: its objects, and the detections of each arm above its threshold.

    Blue boxes are correct: IoU of at least .5 with an object of the class that no better detection
    has. Orange boxes are false. White boxes are objects; in the picture of an arm, missed objects.
    Gray boxes are crowd regions and detections in them, which do not count.

    Args:
        choice: images, thresholds and detections.
        folder: folder that the files of the choice are relative to.
    """
    images = CocoImages(Path(choice.json_file), Path(choice.image_root))
    of_arm = {arm: _by_image(folder / file, choice) for arm, file in choice.files.items()}
    rows, problems = [], []
    for image_id in choice.image_ids:
        try:
            image = images.open(image_id)
        except (OSError, ValueError) as error:
            problems.append(f"Image {image_id} could not be drawn: {error}")
            continue
        rows.append(_row(images, image, image_id, of_arm, choice))
    return Grid(tuple(choice.files), tuple(rows), tuple(problems))


def _by_image(file: Path, choice: ImageChoice) -> dict[int | str, list[dict[str, Any]]]:
    found: dict[int | str, list[dict[str, Any]]] = {id_: [] for id_ in choice.image_ids}
    for detection in chain.from_iterable(read_entries(file)):
        if detection["image_id"] in found:
            found[detection["image_id"]].append(detection)
    return found


def _row(
    images: CocoImages,
    image: Image.Image,
    image_id: int | str,
    of_arm: dict[str, dict[int | str, list[dict[str, Any]]]],
    choice: ImageChoice,
) -> Row:
    scale = CELL / image.width
    objects = images.objects(image_id)
    truth = [
        LabeledBox(
            tuple(o["bbox"]), images.name(o["category_id"]), GRAY if o.get("iscrowd") else WHITE
        )
        for o in objects
    ]
    pictures = [_png(draw_boxes(image, truth, scale=scale, font_size=FONT_SIZE))]
    texts = [f"Image {image_id}, its {len(truth)} objects"]
    for arm, by_image in of_arm.items():
        shown = [d for d in by_image[image_id] if d["score"] >= choice.thresholds[arm]]
        boxes, right = _judged(images, objects, shown)
        pictures.append(_png(draw_boxes(image, boxes, scale=scale, font_size=FONT_SIZE)))
        texts.append(f"Image {image_id}, {arm}: {len(shown)} detections, {right} of them correct")
    return Row(image_id, tuple(pictures), tuple(texts))


def _judged(
    images: CocoImages, objects: list[dict[str, Any]], detections: list[dict[str, Any]]
) -> tuple[list[LabeledBox], int]:
    """Return the boxes for the picture of an arm, and the number of correct detections."""
    missed = [o for o in objects if not o.get("iscrowd")]
    crowds = [o for o in objects if o.get("iscrowd")]
    boxes, right = [], 0
    for detection in sorted(detections, key=lambda d: -d["score"]):
        box, category = tuple(detection["bbox"]), detection["category_id"]
        same = [o for o in missed if o["category_id"] == category]
        best = max(same, key=lambda o: _overlap(box, tuple(o["bbox"])), default=None)
        color = VERMILLION
        if best is not None and _overlap(box, tuple(best["bbox"])) >= MATCH_IOU:
            missed.remove(best)
            color, right = SKY, right + 1
        elif any(_inside(box, tuple(c["bbox"]), c["category_id"] == category) for c in crowds):
            color = GRAY
        text = f"{images.name(category)} {detection['score']:.2f}"
        boxes.append(LabeledBox(box, text, color))
    return [LabeledBox(tuple(o["bbox"]), "", WHITE) for o in missed] + boxes, right


def _overlap(a: Box, b: Box) -> float:
    """Return the IoU."""
    shared = _shared(a, b)
    together = a[2] * a[3] + b[2] * b[3] - shared
    return shared / together if together > 0 else 0.0


def _inside(box: Box, crowd: Box, same_class: bool) -> bool:
    area = box[2] * box[3]
    return same_class and area > 0 and _shared(box, crowd) / area >= MATCH_IOU


def _shared(a: Box, b: Box) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.quantize(COLORS_OF_PNG).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
