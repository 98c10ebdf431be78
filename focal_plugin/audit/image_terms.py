"""
Terms of the classification loss, summed over the anchors of each image.

Shape shorthand:
    I: number of images
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ImageTerms(NamedTuple):
    """
    Sums over the anchors of each image that count, (I,) each.

    Attributes:
        positive_loss, negative_loss: the loss of anchors with and without an object.
        positive_gradient, negative_gradient: their absolute gradients, summed over logits.
        num_pos: positive anchors that the normalizer is given.
        num_counted: anchors in the classification loss.
    """

    positive_loss: np.ndarray
    negative_loss: np.ndarray
    positive_gradient: np.ndarray
    negative_gradient: np.ndarray
    num_pos: np.ndarray
    num_counted: np.ndarray
