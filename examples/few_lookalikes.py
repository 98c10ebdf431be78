"""
The built-in dataset with zero to two look-alikes in an image, in place of 6 to 12.

A spec imports this file and names its datasets, see `configs/comparisons/why_lookalikes.yaml`.
"""

from dataclasses import replace

from focal_plugin.data.shapes.builtin import SPLITS, register_shapes

for split, spec in SPLITS.items():
    name = split.replace("focal_shapes", "few_lookalikes")
    register_shapes(name, replace(spec, distractors=(0, 2)))
