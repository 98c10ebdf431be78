"""
Figures of the background: how many negatives there are for each positive.

Shape shorthand:
    I: number of images
    L: number of feature levels
"""

from __future__ import annotations

from typing import Any

from .anchored_set import AnchoredSet
from .labeling import Labeling
from .summaries import quantiles, ratio


def background_facts(
    data: AnchoredSet, labeling: Labeling, *, classes_of_labels: int
) -> dict[str, Any]:
    """
    Return the figures of the background.

    Args:
        classes_of_labels: K of the loss; 1 for an RPN.
    """
    positives = labeling.positives_by_image(data.table.image)
    negatives = labeling.anchors - labeling.ignored - positives
    of_image = (positives.sum(axis=1), negatives.sum(axis=1))
    has_positives = of_image[0] > 0
    num_pos, num_neg = (int(x.sum()) for x in of_image)
    return {
        "anchors": quantiles(labeling.anchors.sum(axis=1), 5, 95),
        "positives": quantiles(of_image[0], 5, 95),
        "ignored": quantiles(labeling.ignored.sum(axis=1), 5, 95),
        "without_positives": ratio((~has_positives).sum(), len(has_positives)),
        "bg_fg": ratio(num_neg, num_pos),
        "bg_fg_per_image": quantiles(
            of_image[1][has_positives] / of_image[0][has_positives], 5, 50, 95
        ),
        "levels": list(data.detector.levels),
        "bg_fg_by_level": [
            ratio(neg, pos)
            for neg, pos in zip(negatives.sum(axis=0), positives.sum(axis=0), strict=True)
        ],
        "elements": {
            "classes": classes_of_labels,
            "negative": num_neg * classes_of_labels + num_pos * (classes_of_labels - 1),
            "positive": num_pos,
            "ratio": ratio(
                num_neg * classes_of_labels + num_pos * (classes_of_labels - 1), num_pos
            ),
        },
    }
