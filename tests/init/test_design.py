"""focal_plugin/init/design.py: single decisions."""

import numpy as np
import pytest

from focal_plugin.audit.object_table import ObjectTable
from focal_plugin.init import design
from focal_plugin.init.draft import Draft
from focal_plugin.init.recipes import R50, SMALL


def table(sides, classes, images=None):
    """Objects of these sides in images of 480 x 640; all in one image by default."""
    count = len(sides)
    image = np.zeros(count, dtype=np.int64) if images is None else np.array(images)
    boxes = np.array([(0, 0, side, side) for side in sides], dtype=float)
    files = ["a.png"] * (image.max() + 1)
    sizes = np.array([(480, 640)] * len(files))
    return ObjectTable(("x",), ("a", "b"), files, sizes, image, boxes, np.array(classes))


@pytest.mark.parametrize(("side", "size"), [(480, 128), (38, 256), (20, 384), (9, 800), (1, 800)])
def test_the_input_is_as_large_as_the_smallest_class_requires(side, size):
    draft, facts = Draft(SMALL.settings), {}
    objects = table([300, 300, side, side], [0, 0, 1, 1])
    design._set_input(draft, SMALL, objects, None, facts)
    assert size == draft.cfg.INPUT.MIN_SIZE_TEST
    assert (size,) == draft.cfg.INPUT.MIN_SIZE_TRAIN
    assert size == 800 or side / 480 * size >= SMALL.object_px
    assert "the smallest class, b," in facts["input"] or side == 480


@pytest.mark.parametrize(("objects", "kept"), [(1, 100), (100, 100), (101, 200), (950, 1000)])
def test_as_many_detections_are_kept_as_the_fullest_image_has_objects(objects, kept):
    draft = Draft(SMALL.settings)
    few = table([10], [0])
    design._set_detections(draft, few, table([10] * objects, [0] * objects))
    assert kept == draft.cfg.TEST.DETECTIONS_PER_IMAGE


def test_weights_that_cannot_be_fetched_become_random_ones_with_norms(monkeypatch):
    monkeypatch.setattr(design, "can_fetch", lambda weights: False)
    draft, facts = Draft(R50.settings), {}
    design._set_weights(draft, R50, facts)
    assert draft.cfg.MODEL.WEIGHTS == ""
    assert draft.cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert draft.cfg.MODEL.RESNETS.NORM == "GN"
    assert "cannot be fetched" in facts["weights"]
    monkeypatch.setattr(design, "can_fetch", lambda weights: True)
    draft = Draft(R50.settings)
    design._set_weights(draft, R50, {})
    assert R50.weights == draft.cfg.MODEL.WEIGHTS
    assert draft.cfg.MODEL.RESNETS.NORM == "FrozenBN"
