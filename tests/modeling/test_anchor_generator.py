import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator

from ..each import each
from .toy import toy_cfg

STRIDES = (4, 8, 16)


def cells_of(name, sizes):
    cfg = toy_cfg("MODEL.ANCHOR_GENERATOR.NAME", name, "MODEL.ANCHOR_GENERATOR.SIZES", sizes)
    shapes = [ShapeSpec(stride=stride) for stride in STRIDES]
    return list(build_anchor_generator(cfg, shapes).cell_anchors)


@each(
    ("sizes", "pixels"),
    [
        ([[8.0]], [[32.0], [64.0], [128.0]]),
        ([[2.0], [3.0, 4.0], [1.5]], [[8.0], [24.0, 32.0], [24.0]]),
    ],
)
def test_sizes_are_in_strides_of_the_level(sizes, pixels):
    ours = cells_of("StrideAnchorGenerator", sizes)
    for cell, expected in zip(ours, cells_of("DefaultAnchorGenerator", pixels), strict=True):
        assert torch.equal(cell, expected)


def test_another_number_of_lists_is_an_error():
    with pytest.raises(ValueError, match="SIZES must be 1 or 3 lists, got 2"):
        cells_of("StrideAnchorGenerator", [[8.0], [8.0]])
