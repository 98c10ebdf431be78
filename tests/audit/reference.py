"""Small datasets, and their labels as the detector itself gives them, anchor by anchor."""

from typing import NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou

from focal_plugin import get_cfg
from focal_plugin.audit.anchored_set import place_anchors
from focal_plugin.audit.network_frame import FrameSize
from focal_plugin.audit.object_table import CROWD, ObjectTable
from focal_plugin.config_file import find_config_file

SAME_SIZE = FrameSize(0, 1333)


def config(name="retinanet_small.yaml", **keys):
    """Return a config with three classes and the changed keys, `A__B=value` for `A.B`."""
    cfg = get_cfg()
    cfg.merge_from_file(str(find_config_file(f"Shapes-Detection/{name}")))
    cfg.MODEL.RETINANET.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.merge_from_list([x for k, value in keys.items() for x in (k.replace("__", "."), value)])
    return cfg


def table_of_boxes(images, *, size=(64, 96), class_names=("a", "b", "c")):
    """Return the table of images, each a list of (x1, y1, x2, y2, class)."""
    rows = [(i, *annotation) for i, image in enumerate(images) for annotation in image]
    array = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return ObjectTable(
        names=("made",),
        class_names=tuple(class_names),
        file_names=[f"{i}.png" for i in range(len(images))],
        image_sizes=np.tile(np.array(size, dtype=np.int64), (len(images), 1)),
        image=array[:, 0].astype(np.int64),
        boxes=array[:, 1:5],
        classes=array[:, 5].astype(np.int64),
    )


def random_table(num_images, *, seed, largest=80, size=(64, 96), crowds=0.0, num_objects=(0, 12)):
    """Return the table of random boxes on a grid of half pixels, so that IoUs have ties."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(num_images):
        number = rng.integers(*num_objects)
        sides = np.exp(rng.uniform(np.log(2), np.log(largest), (number, 2))).round()
        corner = (2 * rng.random((number, 2)) * (size[::-1] - sides).clip(min=0)).round() / 2
        high = np.minimum(corner + sides, size[::-1])
        label = np.where(rng.random(number) < crowds, CROWD, rng.integers(0, 3, number))
        images.append(np.column_stack([corner, high, label]).tolist())
    return table_of_boxes(images, size=size)


class DenseLabels(NamedTuple):
    """Counts as in `Labeling`, from dense labels."""

    best_iou: np.ndarray
    positives: np.ndarray
    forced: np.ndarray
    anchors: np.ndarray
    ignored: np.ndarray


def instances_of(data, image):
    """Return objects and crowds of an image as the training mapper gives them."""
    own = data.table.image == image
    height, width = data.frame.image_sizes[image].tolist()
    boxes = torch.from_numpy(data.frame.boxes[own])
    classes = torch.from_numpy(data.table.classes[own])
    return Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=classes)


def anchors_of(data, image):
    """Return the anchors of each level of an image, from the generator."""
    sizes = zip(data.grid.rows[image].tolist(), data.grid.columns[image].tolist(), strict=True)
    return data.detector.generator([torch.empty(1, 1, *size) for size in sizes])


def dense_labels(data, label):
    """
    Count labels with the dense labels of each image.

    Args:
        label: (anchors of each level, instances) -> labels in {-1, 0, 1}, and matched boxes, of one
            image.
    """
    table, levels = data.table, len(data.detector.levels)
    num = len(table.classes)
    best, positives = np.zeros(num, np.float32), np.zeros((num, levels), np.int64)
    forced = np.zeros(num, np.int64)
    anchors_per, ignored = [], []
    for image in range(len(table.file_names)):
        anchors = anchors_of(data, image)
        objects = np.flatnonzero((table.image == image) & table.is_object)
        labels, matched = (x.numpy() for x in label(anchors, instances_of(data, image)))
        boxes = data.frame.boxes[objects]
        iou = pairwise_iou(Boxes(torch.from_numpy(boxes)), Boxes.cat(anchors)).numpy()
        best[objects] = iou.max(axis=1)
        level = np.repeat(np.arange(levels), [len(a) for a in anchors])
        for anchor in np.flatnonzero(labels == 1):
            owner = objects[(boxes == matched[anchor]).all(axis=1).argmax()]
            positives[owner, level[anchor]] += 1
            forced[owner] += iou[:, anchor].max() < np.float32(data.detector.matcher.thresholds[-2])
        anchors_per.append([len(a) for a in anchors])
        ignored.append(np.bincount(level[labels == -1], minlength=levels))
    return DenseLabels(best, positives, forced, np.array(anchors_per), np.array(ignored))


def placed(detector, table, size=SAME_SIZE):
    """Place the anchors of a table whose images keep their size."""
    return place_anchors(detector, table, size)
