"""Images on which the arms disagree most: what there was, and what each arm made of it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..analysis.detection_analysis import ImageChoice
from .pictures import CocoImages, LabelledBox, draw_boxes, tile

CELL = 300
"""Width of a picture, pixels."""
FONT_SIZE = 15  # the page shows it smaller
MATCH_IOU = 0.5
COLORS_OF_PNG = 192  # a photograph becomes a third of its size, and no box another colour to see

WHITE, SKY, VERMILLION, GREY = (255, 255, 255), (86, 180, 233), (255, 120, 40), (150, 150, 150)

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Row:
    """
    One image.

    Attributes:
        pictures: the ground truth, then each arm of the choice, as PNG.
        texts: of each picture, for those who do not see it.
    """

    image_id: int
    pictures: tuple[bytes, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """
    Attributes:
        arms: the columns after the ground truth.
        problems: sentences on images that could not be drawn.
    """

    arms: tuple[str, ...]
    rows: tuple[Row, ...]
    problems: tuple[str, ...]

    def sheet(self) -> bytes:
        """All pictures in one PNG, without words."""
        pictures: list[Image.Image] = [
            Image.open(io.BytesIO(p)) for row in self.rows for p in row.pictures
        ]
        return _png(tile(pictures, columns=len(self.arms) + 1))


def draw_grid(choice: ImageChoice, detections: dict[str, Path]) -> Grid:
    """
    A row for each image: its objects, and the detections of each arm from its threshold on.

    Blue: right (IoU of at least .5 with an object of its class that no better detection has).
    Orange: wrong. White: an object; in the picture of an arm, one that it missed. Grey: a crowd
    region, and detections in it, which count for nothing.

    Args:
        detections: arm -> its `coco_instances_results.json`.
    """
    images = CocoImages(Path(choice.json_file), Path(choice.image_root))
    of_arm = {arm: _by_image(file, choice) for arm, file in detections.items()}
    rows, problems = [], []
    for image_id in choice.image_ids:
        try:
            image = images.open(image_id)
        except (OSError, ValueError) as error:
            problems.append(f"Image {image_id} could not be drawn: {error}")
            continue
        rows.append(_row(images, image, image_id, of_arm, choice))
    return Grid(tuple(detections), tuple(rows), tuple(problems))


def _by_image(file: Path, choice: ImageChoice) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {id_: [] for id_ in choice.image_ids}
    for detection in json.loads(file.read_text(encoding="utf-8")):
        if detection["image_id"] in found:
            found[detection["image_id"]].append(detection)
    return found


def _row(
    images: CocoImages,
    image: Image.Image,
    image_id: int,
    of_arm: dict[str, dict[int, list[dict[str, Any]]]],
    choice: ImageChoice,
) -> Row:
    scale = CELL / image.width
    objects = images.objects(image_id)
    truth = [
        LabelledBox(
            tuple(o["bbox"]), images.name(o["category_id"]), GREY if o.get("iscrowd") else WHITE
        )
        for o in objects
    ]
    pictures = [_png(draw_boxes(image, truth, scale=scale, font_size=FONT_SIZE))]
    texts = [f"Image {image_id}, its {len(truth)} objects"]
    for arm, by_image in of_arm.items():
        shown = [d for d in by_image[image_id] if d["score"] >= choice.thresholds[arm]]
        boxes, right = _judged(images, objects, shown)
        pictures.append(_png(draw_boxes(image, boxes, scale=scale, font_size=FONT_SIZE)))
        texts.append(f"Image {image_id}, {arm}: {len(shown)} detections, {right} of them right")
    return Row(image_id, tuple(pictures), tuple(texts))


def _judged(
    images: CocoImages, objects: list[dict[str, Any]], detections: list[dict[str, Any]]
) -> tuple[list[LabelledBox], int]:
    """What to draw in the picture of an arm, and how many detections are right."""
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
            color = GREY
        text = f"{images.name(category)} {detection['score']:.2f}"
        boxes.append(LabelledBox(box, text, color))
    return [LabelledBox(tuple(o["bbox"]), "", WHITE) for o in missed] + boxes, right


def _overlap(a: Box, b: Box) -> float:
    """IoU."""
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
