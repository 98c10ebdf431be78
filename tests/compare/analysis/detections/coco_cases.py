"""Random COCO ground truth and detections, and their evaluation by pycocotools."""

import contextlib
import io
import json

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from focal_plugin.compare.analysis.detections.average_precision import METRICS

CATEGORIES = (7, 2, 90, 41, 5)
"""Unsorted image ids; 41 has detections but no objects, 5 has neither."""
WITH_OBJECTS = (7, 2, 90)
STATS = (0, 1, 2, 3, 4, 5, 8)
"""Indices of METRICS in the result of pycocotools."""


def random_case(seed, *, images=12, false_alarms=6, tied_scores=True):
    """
    Ground truth and detections: empty images, crowds, sizes on both sides of 32 and 96, detections
    near objects, duplicated, of a wrong class, far off, in a file out of order. With
    ``tied_scores`` there are eleven different scores; else those of an image all differ.
    """
    generator = np.random.default_rng(seed)
    image_ids = [int(i) for i in generator.permutation(images) * 3 + 1]
    annotations, detections = [], []
    for image_id in image_ids:
        found = []
        for _ in range(generator.integers(0, 5)):
            annotation = _annotation(generator, image_id, len(annotations) + 1)
            annotations.append(annotation)
            for _ in range(generator.integers(0, 4)):
                found.append((_moved(generator, annotation["bbox"]), annotation["category_id"]))
        for _ in range(generator.integers(0, false_alarms)):
            found.append((_box(generator), 0))
        scores = generator.permutation(np.arange(1, 1000))[: len(found)] / 1000
        for (box, category), score in zip(found, scores, strict=True):
            if category == 0 or generator.random() < 0.2:
                category = int(generator.choice(CATEGORIES[:4]))
            score = round(float(score), 1) if tied_scores else float(score)
            entry = {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            detections.append(entry)
    generator.shuffle(detections)
    return ground_truth(image_ids, annotations), detections


def ground_truth(image_ids, annotations, categories=CATEGORIES):
    return {
        "images": [{"id": id_, "file_name": f"{id_}.png"} for id_ in image_ids],
        "categories": [{"id": id_, "name": f"class {id_}"} for id_ in categories],
        "annotations": annotations,
    }


def write(folder, truth, name="annotations.json"):
    file = folder / name
    file.write_text(json.dumps(truth))
    return file


def pycocotools_evaluation(truth, detections):
    """Return the accumulated evaluation with ``stats``; the inputs are not changed."""
    truth, detections = json.loads(json.dumps([truth, detections]))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **truth}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def pycocotools_averages(truth, detections):
    """Return metric -> fraction, NaN instead of the -1 of pycocotools."""
    stats = pycocotools_evaluation(truth, detections).stats[list(STATS)]
    return dict(zip(METRICS, np.where(stats < 0, np.nan, stats), strict=True))


def copies(truth, detections, weights):
    """Repeat each image by its weight; the copies of an image are consecutive."""
    of_image, annotations, repeated = {}, [], []
    for image_id, weight in zip(
        sorted(i["id"] for i in truth["images"]), weights.tolist(), strict=True
    ):
        of_image[image_id] = [image_id * 100 + copy for copy in range(int(weight))]
    for annotation in truth["annotations"]:
        for image_id in of_image[annotation["image_id"]]:
            id_ = len(annotations) + 1
            annotations.append({**annotation, "id": id_, "image_id": image_id})
    for entry in detections:
        repeated += [{**entry, "image_id": id_} for id_ in of_image[entry["image_id"]]]
    image_ids = [id_ for ids in of_image.values() for id_ in ids]
    return ground_truth(image_ids, annotations), repeated


def _annotation(generator, image_id, id_):
    box = _box(generator)
    return {
        "id": id_,
        "image_id": image_id,
        "category_id": int(generator.choice(WITH_OBJECTS)),
        "bbox": box,
        "area": box[2] * box[3] * float(generator.uniform(0.5, 1)),
        "iscrowd": int(generator.random() < 0.15),
    }


def _box(generator):
    place = generator.uniform(0, 100, 2)
    return [*map(float, place), *map(float, generator.choice([12, 30, 34, 60, 94, 120], 2))]


def _moved(generator, box):
    x, y, width, height = box
    dx, dy, dw, dh = generator.normal(0, 0.15, 4)
    moved = (x + dx * width, y + dy * height, width * np.exp(dw), height * np.exp(dh))
    return [float(value) for value in moved]
