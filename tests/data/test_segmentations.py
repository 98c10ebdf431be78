"""Tests of :mod:`focal_plugin.data.segmentations`."""

from __future__ import annotations

import pytest

from focal_plugin.data.segmentations import kind_of_segmentation


@pytest.mark.parametrize("counts", [[6, 3, 3], [0, 12], [12]])
def test_runs_that_cover_the_image_are_a_mask(counts):
    assert kind_of_segmentation({"size": [3, 4], "counts": counts}) == "rle"


@pytest.mark.parametrize("counts", [[6, 3], [6, 3, 4], [], [6, -3, 9], [6, 3, 3.0], [12, True]])
def test_runs_that_leave_pixels_undefined_are_unusable(counts):
    assert kind_of_segmentation({"size": [3, 4], "counts": counts}) == "unusable"
