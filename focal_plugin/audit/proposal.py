"""
Proposal of anchor sizes, ratios and an input size; offered, never applied.

Shape shorthand:
    K: number of classes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode

from .anchor_figures import recall_facts
from .anchor_search import Shapes, search
from .anchored_set import place_anchors
from .class_figures import class_names
from .detector import IN_PIXELS, IN_STRIDES, AnchoredDetector, read_detector, with_sizes_in_pixels
from .labeling import best_ious
from .network_frame import frame_at_test, to_network_frame
from .object_table import ObjectTable
from .sampling import sample_by_class
from .summaries import ratio

AT = "0.5"
"""IoU of the recall."""
ENOUGH = 0.99
"""Recall of every class from which on there is nothing to propose."""
GOAL = 0.95
"""Recall of every class that is worth a larger input."""
FACTORS = (1.0, 1.5, 2.0)
"""Factors of the input size that are tried, until one reaches the goal."""
PAYS = 0.02
"""Loss of mean recall that a smaller input may have if no size reaches the goal."""
WORTHWHILE, OF_MISSING = 0.01, 0.1
"""Least gain of mean recall that is worth a proposal: absolute, and of what is missing to 1."""
SEARCHED, EVALUATED = 2_000, 50_000
"""Largest number of objects in the search, and in the recall before and after."""


class _Candidate(NamedTuple):
    """Keys of a proposal with the recall that they have."""

    cfg: CfgNode
    opts: list[str]
    recall: list[float | None]

    @property
    def mean(self) -> float:
        return float(np.mean([value for value in self.recall if value is not None]))

    def reaches_goal(self, counts: np.ndarray) -> bool:
        """Return whether each class has at most 5% of its objects, or one, without an anchor."""
        return all(
            (1 - value) * count <= max(1, (1 - GOAL) * count) + 1e-6
            for value, count in zip(self.recall, counts, strict=True)
            if value is not None
        )


def propose_anchors(
    cfg: CfgNode, table: ObjectTable, *, larger_input: bool = True, search: bool = True
) -> dict[str, Any]:
    """
    Propose anchors that reach the objects of every class on the network's input at test size.

    The number of levels, and of sizes and ratios per location, is that of the config. A larger
    input is proposed only if no anchors reach the goal without it.

    Args:
        cfg: a config whose model has anchors.
        table: the training set.
        larger_input: False to keep the input of the config in any case.
        search: False to describe the anchors of the config only.

    Returns:
        JSON values:

        * `status`: "proposed", "enough" (every class has a recall of .99), "none" (the search found
          nothing better), "empty" (no objects), "unsupported" (the levels have different numbers
          of sizes or ratios) or "not searched".
        * `before` and `after`: `sizes` of each level in pixels of the input, `ratios`, `short` and
          `longest`, the limits of the input's sides, and the `recall` at IoU .5. `after` is None
          without a proposal.
        * `per_class`: `name`, `objects` and the recall `before` and `after` of each class.
        * `levels` and `strides` of the detector, `objects` in total, and `evaluated` ones.
        * `cost`: pixels of the proposed input over those of the config's.
        * `opts`: KEY, VALUE, ... as on a command line.
    """
    of_generator: list[str] = []
    if cfg.MODEL.ANCHOR_GENERATOR.NAME == IN_STRIDES:
        of_generator = ["MODEL.ANCHOR_GENERATOR.NAME", IN_PIXELS]
        cfg = with_sizes_in_pixels(cfg)
    detector = read_detector(cfg)
    counts = table.objects_per_class(detector.num_classes)
    sample = sample_by_class(table, EVALUATED)
    now = _candidate(cfg, sample, [])
    shapes = _shapes_of(detector)
    chosen = None
    if not counts.sum():
        status = "empty"
    elif min(_known(now.recall)) >= ENOUGH:
        status = "enough"
    elif shapes is None:
        status = "unsupported"
    elif not search:
        status = "not searched"
    else:
        factors = FACTORS if larger_input and frame_at_test(cfg).short else FACTORS[:1]
        best = _choose(cfg, sample, shapes, counts, factors)
        least = max(WORTHWHILE, OF_MISSING * (1 - now.mean))
        chosen = best if best.mean >= now.mean + least else None
        status = "none" if chosen is None else "proposed"
    after = [None] * detector.num_classes if chosen is None else chosen.recall
    names = class_names(table, detector.num_classes)
    return {
        "status": status,
        "train": list(table.names),
        "levels": list(detector.levels),
        "strides": list(detector.strides),
        "objects": int(counts.sum()),
        "evaluated": len(sample.classes),
        "before": _described(now, counts),
        "after": None if chosen is None else _described(chosen, counts),
        "per_class": [
            {"name": name, "objects": int(count), "before": before, "after": later}
            for name, count, before, later in zip(names, counts, now.recall, after, strict=True)
        ],
        "cost": 1.0 if chosen is None else _pixels(chosen.cfg, sample) / _pixels(cfg, sample),
        "opts": [] if chosen is None else [*of_generator, *chosen.opts],
    }


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _with(cfg: CfgNode, opts: Sequence[str]) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(opts))
    return cfg


def _candidate(cfg: CfgNode, sample: ObjectTable, opts: list[str]) -> _Candidate:
    """Return the config with some keys, and the recall of its anchors."""
    cfg = _with(cfg, opts)
    detector = read_detector(cfg)
    best = best_ious(place_anchors(detector, sample, frame_at_test(cfg)))
    found = recall_facts(best, sample.classes, detector.num_classes)
    return _Candidate(cfg, opts, [recall[AT] for recall in found["per_class"]])


def _shapes_of(detector: AnchoredDetector) -> Shapes | None:
    """Return the mean shapes of the levels; None if these have different numbers of them."""
    generator = detector.cfg.MODEL.ANCHOR_GENERATOR
    if len({*map(len, generator.SIZES)}) > 1 or len({*map(len, generator.ASPECT_RATIOS)}) > 1:
        return None
    scales = np.array(generator.SIZES) / np.array(detector.strides)[:, None]  # (L, S)
    logs = np.log(scales).mean(axis=0), np.log(generator.ASPECT_RATIOS).mean(axis=0)
    return Shapes(*(np.sort(np.exp(log)) for log in logs))


def _choose(
    cfg: CfgNode,
    sample: ObjectTable,
    shapes: Shapes,
    counts: np.ndarray,
    factors: Sequence[float],
) -> _Candidate:
    """Return the candidate with the smallest input that reaches the goal, or comes close to it."""
    searched = sample_by_class(sample, SEARCHED)
    tried = []
    for factor in factors:
        of_input = _input_opts(cfg, factor)
        of_anchors = _search(_with(cfg, of_input), searched, shapes)
        tried.append(_candidate(cfg, sample, [*of_anchors, *of_input]))
        if tried[-1].reaches_goal(counts):
            return tried[-1]
    most = max(candidate.mean for candidate in tried)
    return next(candidate for candidate in tried if candidate.mean >= most - PAYS)


def _input_opts(cfg: CfgNode, factor: float) -> list[str]:
    """Return the keys of an input ``factor`` times as large; none for a factor of 1."""
    if factor == 1:
        return []
    at = cfg.INPUT
    sizes = {
        "INPUT.MIN_SIZE_TRAIN": tuple(round(factor * size) for size in at.MIN_SIZE_TRAIN),
        "INPUT.MAX_SIZE_TRAIN": round(factor * at.MAX_SIZE_TRAIN),
        "INPUT.MIN_SIZE_TEST": round(factor * at.MIN_SIZE_TEST),
        "INPUT.MAX_SIZE_TEST": round(factor * at.MAX_SIZE_TEST),
    }
    return [text for key, value in sizes.items() for text in (key, repr(value))]


def _search(cfg: CfgNode, objects: ObjectTable, start: Shapes) -> list[str]:
    """Return the keys of the anchors that reach some objects best, each class alike."""
    detector = read_detector(cfg)
    data = place_anchors(detector, objects, frame_at_test(cfg))
    _, inverse, number = np.unique(objects.classes, return_inverse=True, return_counts=True)
    weights = 1 / (number[inverse.reshape(-1)] * len(number))
    longest = data.frame.image_sizes.max() / max(detector.strides)
    found = search(data, weights, start, largest=max(longest, *start.scales, 2))
    sizes = [_distinct(stride * found.scales, 1) for stride in detector.strides]
    ratios = [_distinct(found.ratios, 0.01)]
    return [
        "MODEL.ANCHOR_GENERATOR.SIZES",
        repr([[round(size) for size in level] for level in sizes]),
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
        repr([[round(ratio, 2) for ratio in level] for level in ratios]),
    ]


def _distinct(values: np.ndarray, step: float) -> list[float]:
    """Round ascending values to multiples of a step, each larger than the one before."""
    rounded: list[float] = []
    for value in values.tolist():
        least = rounded[-1] + step if rounded else step
        rounded.append(max(least, round(value / step) * step))
    return rounded


def _described(candidate: _Candidate, counts: np.ndarray) -> dict[str, Any]:
    generator, size = candidate.cfg.MODEL.ANCHOR_GENERATOR, frame_at_test(candidate.cfg)
    of_class = zip(candidate.recall, counts.tolist(), strict=True)
    found = sum(value * count for value, count in of_class if value is not None)
    return {
        "sizes": [list(sizes) for sizes in generator.SIZES],
        "ratios": [list(ratios) for ratios in generator.ASPECT_RATIOS],
        "short": size.short,
        "longest": size.longest,
        "recall": ratio(found, counts.sum()),
    }


def _pixels(cfg: CfgNode, table: ObjectTable) -> float:
    return float(to_network_frame(table, frame_at_test(cfg)).image_sizes.prod(axis=1).sum())
