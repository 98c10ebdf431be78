"""Tests of the figures, against counts written here."""

import itertools

import numpy as np
import pytest

from focal_plugin.audit.ceiling_figures import ceiling_facts
from focal_plugin.audit.class_figures import class_facts, class_groups, gini
from focal_plugin.audit.detector import read_detector
from focal_plugin.audit.image_figures import covered_by_crowds, image_facts
from focal_plugin.audit.neighbors import has_neighbor
from focal_plugin.audit.network_frame import FrameSize, to_network_frame
from focal_plugin.audit.object_table import CROWD
from focal_plugin.audit.size_figures import size_facts

from .reference import config, placed, random_table, table_of_boxes


def of_classes(*images):
    """Return a table whose images have one box of each named class."""
    return table_of_boxes([[(0, 0, 10, 10, label) for label in image] for image in images])


def test_classes_are_counted_by_object_and_by_image():
    facts = class_facts(of_classes([0, 0, 1], [0, CROWD], [1], []), 3, cb_beta=0.9)
    rows = facts["per_class"]
    assert [row["objects"] for row in rows] == [3, 2, 0]
    assert [row["images"] for row in rows] == [2, 2, 0]
    assert [row["share"] for row in rows] == [0.6, 0.4, 0]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert [row["with_head"] for row in rows] == [1, 0.5, None]
    assert rows[1]["effective_number"] == pytest.approx(1 + 0.9)
    assert (facts["head"], facts["tail"], facts["absent"]) == (0, 1, [2])
    assert facts["imbalance_ratio"] == 1.5


def test_a_dataset_without_objects_has_no_head():
    facts = class_facts(of_classes([], [CROWD]), 3, cb_beta=0.9)
    assert (facts["head"], facts["tail"], facts["imbalance_ratio"]) == (None, None, None)
    assert facts["gini"] is None


@pytest.mark.parametrize("counts", [[5, 5, 5], [0, 0, 9], [1, 2, 3, 10]])
def test_gini_is_the_mean_difference_over_twice_the_mean(counts):
    differences = [abs(a - b) for a, b in itertools.product(counts, counts)]
    expected = np.mean(differences) / (2 * np.mean(counts))
    assert gini(np.array(counts)) == pytest.approx(expected)


def test_groups_are_thirds_of_few_classes_and_those_of_lvis_of_many():
    assert class_groups(np.array([50, 0, 3, 20])) == ["frequent", None, "rare", "common"]
    many = np.array([1, 10, 11, 100, 101, 0] * 5)
    groups = ["rare", "rare", "common", "common", "frequent", None]
    assert class_groups(many) == groups * 5


def test_images_are_counted_with_the_area_of_their_crowds():
    table = table_of_boxes(
        [
            [(0, 0, 48, 32, CROWD), (24, 0, 72, 64, CROWD), (0, 0, 5, 5, 1)],
            [],
            [(1, 1, 6, 7, 0), (0, 0, 5, 5, 1)],
        ]
    )
    facts = image_facts(table)
    assert (facts["images"], facts["objects"], facts["crowds"]) == (3, 3, 2)
    assert facts["empty"] == pytest.approx(1 / 3)
    assert facts["objects_per_image"] == {"mean": 1, "p50": 1, "p95": 1.9, "p100": 2}
    union = 48 * 32 + 48 * 64 - 24 * 32
    assert covered_by_crowds(table).tolist() == [union / (64 * 96), 0, 0]


def test_the_area_of_crowds_is_that_of_their_pixels():
    table = random_table(6, seed=0, crowds=1)
    pixels = np.zeros((6, *table.image_sizes[0]), dtype=bool)
    for image, box in zip(table.image, np.round(table.boxes).astype(int), strict=True):
        pixels[image, box[1] : box[3], box[0] : box[2]] = True
    assert covered_by_crowds(table) == pytest.approx(pixels.mean(axis=(1, 2)))


def neighbors_one_by_one(table, iou):
    found = np.zeros(len(table.classes), dtype=bool)
    for a, b in itertools.permutations(range(len(table.classes)), 2):
        alike = table.image[a] == table.image[b] and table.classes[a] == table.classes[b] != CROWD
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = table.boxes[a], table.boxes[b]
        width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
        if alike and width > 0 and height > 0:
            overlap = width * height
            union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap
            found[a] |= overlap / union >= iou
    return found


@pytest.mark.parametrize("iou", [0.05, 0.5, 1.0])
def test_neighbors_are_those_of_all_pairs(iou, monkeypatch):
    monkeypatch.setattr("focal_plugin.audit.neighbors.PAIRS_AT_ONCE", 7)
    table = random_table(8, seed=6, num_objects=(0, 25), crowds=0.1)
    table = table._replace(boxes=np.round(table.boxes / 24) * 24 + [0, 0, 1, 1])
    found = has_neighbor(table, iou=iou)
    assert np.array_equal(found, neighbors_one_by_one(table, iou))
    assert 0 < found.sum() < len(found)


def test_boxes_are_resized_and_clipped_as_by_the_mapper():
    table = table_of_boxes([[(10, -10, 200, 30, 0), (5, 5, 5, 9, 0)]], size=(60, 100))
    frame = to_network_frame(table, FrameSize(128, 200))
    assert frame.image_sizes.tolist() == [[120, 200]]
    assert frame.boxes.tolist() == [[20, 0, 200, 60], [0, 0, 0, 0]]
    assert to_network_frame(table, FrameSize(0, 50)).image_sizes.tolist() == [[60, 100]]


def test_sizes_are_counted_in_network_pixels():
    table = table_of_boxes(
        [[(2, 2, 5, 5, 0), (10, 10, 40, 40, 1), (20, 20, 94.5, 62, 1), (2, 2, 5, 5, 0)]],
    )
    facts = size_facts(placed(read_detector(config()), table, FrameSize(128, 999)), 3)
    assert facts["side"]["p50"] == pytest.approx((6 + 60) / 2)
    assert facts["below_finest_stride"] == 0.5
    assert facts["above_largest_anchor"] == 0.25  # 112 px; the largest anchor has 80
    assert facts["cut_off"] == 0.0
    assert facts["duplicate"] == 0.5
    assert facts["coco_sizes"]["original"] == {"small": 0.75, "medium": 0.25, "large": 0}
    assert facts["coco_sizes"]["network"] == {"small": 0.5, "medium": 0.25, "large": 0.25}
    assert [row["duplicate"] for row in facts["per_class"]] == [1, 0, None]


def test_a_box_at_the_border_is_cut_off():
    table = table_of_boxes([[(1, 9, 20, 20, 0), (9, 9, 95, 20, 0), (1.1, 9, 20, 20, 0)]])
    assert size_facts(placed(read_detector(config()), table), 3)["cut_off"] == pytest.approx(2 / 3)


def test_ceilings_are_those_of_the_test_keys():
    keys = {"TEST__DETECTIONS_PER_IMAGE": 3, "MODEL__RETINANET__TOPK_CANDIDATES_TEST": 4}
    table = of_classes([0, 0, 1, 1, 2], [0, 1, 2], [])
    facts = ceiling_facts(read_detector(config(**keys)), table)
    assert facts["nms"] == 0.5  # the same box twice, of two classes
    assert facts["topk_images"] == facts["detections_images"] == pytest.approx(1 / 3)
    assert facts["detections_lost"] == 2 / 8
