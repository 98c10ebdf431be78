"""The audit of a config: all figures of its datasets, and the sentences about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from .. import arms as named_arms
from ..modeling.samples_per_class import set_samples_per_class
from .anchor_figures import anchor_facts, recall_facts
from .anchored_set import AnchoredSet, place_anchors
from .background_figures import background_facts
from .ceiling_figures import ceiling_facts
from .class_figures import class_facts
from .detector import AnchoredDetector, read_detector
from .image_figures import image_facts
from .labeling import best_ious, label_anchors
from .loss_figures import LabeledSet, loss_facts
from .network_frame import FrameSize, frame_at_test, frames_at_training
from .object_table import ObjectTable, read_test_set, read_training_set
from .optimal_prior import settle_priors
from .proposal import propose_anchors
from .proposal_sentences import proposal_sentences
from .remedies import remedies_for
from .sentence import Sentence, by_severity
from .sentences import RECALL_RED, sentences_of
from .side_figures import side_facts
from .size_figures import size_facts
from .split_sentences import split_sentences
from .splits import split_facts

FORMAT = 1
"""Version of the form of the facts."""


MOST_REMEDIES = 5
"""Classes, those with the most objects, for which remedies are tried."""


@dataclass(frozen=True)
class Audit:
    """
    Figures of a dataset as a detector sees it, and what they mean.

    Attributes:
        facts: all figures, as JSON values; None where there is nothing to count.
        sentences: the red ones first, then the yellow ones, then the green ones.
    """

    facts: dict[str, Any]
    sentences: tuple[Sentence, ...]

    @property
    def red(self) -> tuple[Sentence, ...]:
        """Sentences about what no training mends."""
        return tuple(sentence for sentence in self.sentences if sentence.severity == "red")

    def as_json(self) -> str:
        """Return figures and sentences as JSON."""
        sentences = [sentence._asdict() for sentence in self.sentences]
        return json.dumps({**self.facts, "sentences": sentences}, indent=2, allow_nan=False)


def audit_config(
    cfg: CfgNode,
    *,
    test: Sequence[str] = (),
    arms: Sequence[str] = (),
    images: bool = False,
    proposal: bool = True,
) -> Audit:
    """
    Audit the training set of a config with its own anchors, matcher and loss.

    Args:
        cfg: a config with the keys of this package, whose datasets are registered and free of
            errors, see :func:`focal_plugin.data.check_datasets`.
        test: registered datasets to compare with the training set.
        arms: names of arms whose loss is compared with that of the config.
        images: whether images are opened to find near copies across datasets.
        proposal: whether better anchors are searched for, which takes seconds.

    Raises:
        KeyError: an arm, a component or a dataset is unknown.
        ValueError: the detector has no anchors, an option has an illegal value, or an annotation
            has a class that the model lacks.
    """
    table = read_training_set(cfg)
    cfg = _with_counts(cfg, table)
    detector = read_detector(cfg)
    _check_classes(detector, table)
    data = place_anchors(detector, table, frame_at_test(cfg))
    labeled = LabeledSet(data, label_anchors(data))
    num_classes = detector.num_classes
    facts = {
        "format": FORMAT,
        "detector": _detector_facts(detector, data),
        "classes": class_facts(table, num_classes, cb_beta=cfg.MODEL.FOCAL.CLS_LOSS.CB_BETA),
        "images": {"train": list(table.names), "test": list(test), **image_facts(table)},
        "sizes": size_facts(data, num_classes),
        "anchors": _anchor_facts(labeled, frames_at_training(cfg)),
        "background": background_facts(
            data, labeled.labeling, classes_of_labels=num_classes if detector.kind != "RPN" else 1
        ),
        "loss": loss_facts(labeled, {name: _labeled_by_arm(cfg, name, labeled) for name in arms}),
        "ceilings": ceiling_facts(detector, table),
        "sides": side_facts(data, labeled.labeling.best_iou, num_classes),
        "splits": split_facts(table, [read_test_set(name) for name in test], images=images),
        "proposal": propose_anchors(cfg, table, search=proposal),
    }
    return Audit(facts, _all_sentences(facts))


def _all_sentences(facts: dict[str, Any]) -> tuple[Sentence, ...]:
    return by_severity(
        [
            *sentences_of(facts),
            *proposal_sentences(facts["proposal"]),
            *split_sentences(facts["splits"]),
        ]
    )


def _with_counts(cfg: CfgNode, table: ObjectTable) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    settle_priors(cfg)
    set_samples_per_class(cfg, table.objects_per_class, table.images_per_class)
    return cfg


def _check_classes(detector: AnchoredDetector, table: ObjectTable) -> None:
    largest = table.classes.max(initial=0)
    if largest >= detector.num_classes:
        raise ValueError(
            f"the model has {detector.num_classes} classes, but {', '.join(table.names)} has an "
            f"object of class index {largest}"
        )


def _detector_facts(detector: AnchoredDetector, data: AnchoredSet) -> dict[str, Any]:
    generator = detector.cfg.MODEL.ANCHOR_GENERATOR
    return {
        "kind": detector.kind,
        "num_classes": detector.num_classes,
        "levels": list(detector.levels),
        "strides": list(detector.strides),
        "sizes": [list(sizes) for sizes in generator.SIZES],
        "aspect_ratios": [list(ratios) for ratios in generator.ASPECT_RATIOS],
        "thresholds": detector.matcher.thresholds[1:-1],
        "labels": list(detector.matcher.labels),
        "low_quality": detector.matcher.low_quality,
        "frame": data.frame.size._asdict(),
    }


def _anchor_facts(labeled: LabeledSet, frames: Sequence[FrameSize]) -> dict[str, Any]:
    data, labeling = labeled
    num_classes = data.detector.num_classes
    facts = anchor_facts(data, labeling, num_classes)
    facts["at_training"] = [
        {"frame": size._asdict(), **_recall_at(data, size, labeled)} for size in frames
    ]
    rows = facts["per_class"]
    red = [i for i, x in enumerate(rows) if x["objects"] and x["recall"]["0.5"] < RECALL_RED]
    red.sort(key=lambda index: -rows[index]["objects"])
    facts["remedies"] = {
        str(index): remedies_for(data, labeling.best_iou, index) for index in red[:MOST_REMEDIES]
    }
    return facts


def _recall_at(data: AnchoredSet, size: FrameSize, labeled: LabeledSet) -> dict[str, Any]:
    table = data.table
    if size == data.frame.size:
        best = labeled.labeling.best_iou
    else:
        best = best_ious(place_anchors(data.detector, table, size))
    objects = table.is_object
    return recall_facts(best[objects], table.classes[objects], data.detector.num_classes)


def _labeled_by_arm(cfg: CfgNode, name: str, labeled: LabeledSet) -> LabeledSet:
    """Return the dataset as an arm labels it; anchors that no key of the arm changes are reused."""
    own = cfg.clone()
    named_arms.apply(own, name)
    own = _with_counts(own, labeled.data.table)
    detector = read_detector(own)
    size = frame_at_test(own)
    if (detector.signature, size) == (labeled.data.detector.signature, labeled.data.frame.size):
        return LabeledSet(labeled.data._replace(detector=detector), labeled.labeling)
    data = place_anchors(detector, labeled.data.table, size)
    return LabeledSet(data, label_anchors(data))
