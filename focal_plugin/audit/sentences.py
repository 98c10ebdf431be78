"""Sentences of the audit, made from its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..pages.text import listed, plain
from .sentence import Sentence, Severity, by_severity

Facts = dict[str, Any]

RECALL_RED, RECALL_YELLOW = 0.5, 0.9
"""Recall of a class at IoU .5 below which a sentence is red, and yellow."""
NEUTRAL = 0.5
"""Share of positives over share of objects below which a class loses its anchors."""
IMBALANCED = 10.0
"""Imbalance ratio from which on the classes are imbalanced."""
FEW_OBJECTS = 10
"""Objects from which on a class is not called tiny."""
ALWAYS_WITH_HEAD = 0.9
BACKGROUND = 1000.0
"""Negatives per positive from which on the background is extreme."""
SHOWN = 5
"""Classes that a sentence names."""
BELOW_STRIDE, DUPLICATES, NMS, LOST = 0.1, 0.01, 0.01, 0.05
"""Shares of objects from which on a sentence warns."""


def sentences_of(facts: Facts) -> tuple[Sentence, ...]:
    """Return all sentences: the red ones first, then the yellow ones, then the green ones."""
    if not facts["images"]["objects"]:
        return (Sentence("red", "images", "No image has an object, so there is nothing to learn."),)
    parts: list[Callable[[Facts], Iterator[Sentence]]] = [
        _assigner,
        _anchors,
        _training_sizes,
        _share_of_positives,
        _levels,
        _classes,
        _sizes,
        _background,
        _loss,
        _normalizer,
        _ceilings,
    ]
    found = [x._replace(text=plain(x.text)) for part in parts for x in part(facts)]
    return by_severity(found)


def percent(value: float) -> str:
    """Return a share as text: "71%", "7.5%", "0.04%"; a share that is not 0 is never "0%"."""
    number = 100 * value
    if number in (0, 100) or 9.95 <= number < 99.5:
        return f"{number:.0f}%"
    if number >= 99.5:
        return f"{min(number, 99.9):.1f}%"
    return f"{number:.1f}%" if number >= 0.95 else f"{max(number, 0.001):.1g}%"


def number(value: float) -> str:
    """Return a number as text with two or three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _names(facts: Facts) -> list[str]:
    return [row["name"] for row in facts["classes"]["per_class"]]


def _at(facts: Facts) -> str:
    short = facts["detector"]["frame"]["short"]
    return f"at {short} px" if short else "at the size of the files"


def _anchors(facts: Facts) -> Iterator[Sentence]:
    recalls = {
        index: row["recall"]["0.5"]
        for index, row in enumerate(facts["anchors"]["per_class"])
        if row["objects"]
    }
    red = [index for index, recall in recalls.items() if recall < RECALL_RED]
    yield from _unreachable(facts, red, recalls)
    yellow = [i for i, recall in recalls.items() if RECALL_RED <= recall < RECALL_YELLOW]
    if yellow:
        missed = sorted(1 - recalls[index] for index in yellow)
        shares = " to ".join(dict.fromkeys(map(percent, (missed[0], missed[-1]))))
        names = listed([_names(facts)[index] for index in yellow], SHOWN)
        text = f"{names}: {shares} of objects have no anchor of IoU .5 {_at(facts)}."
        yield Sentence("yellow", "anchors", text)
    if not (red or yellow):
        recall = facts["anchors"]["recall"]["0.5"]
        text = f"{percent(recall)} of objects have an anchor of IoU .5 {_at(facts)}."
        yield Sentence("green", "anchors", text)


def _assigner(facts: Facts) -> Iterator[Sentence]:
    """Yield a sentence if training does not use the labels that the audit counts."""
    name = facts["detector"]["assigner"]
    if name != "max_iou":
        text = f"Positives are counted by IoU thresholds (max_iou), but training uses {name}."
        yield Sentence("yellow", "assigner", text)


def _unreachable(facts: Facts, classes: list[int], recalls: dict[int, float]) -> Iterator[Sentence]:
    """Yield a sentence for each class with a remedy, and one for all others."""
    remedies = facts["anchors"]["remedies"]
    for index in classes:
        if str(index) in remedies:
            text = (
                f"{_names(facts)[index]}: {percent(1 - recalls[index])} of objects have no anchor "
                f"of IoU .5 {_at(facts)}. No loss will find them; {_remedy(remedies[str(index)])}."
            )
            yield Sentence("red", "anchors", text)
    others = [_names(facts)[index] for index in classes if str(index) not in remedies]
    if others:
        text = (
            f"{listed(others, SHOWN)}: most objects have no anchor of IoU .5 {_at(facts)}. No loss "
            "will find them."
        )
        yield Sentence("red", "anchors", text)


def _training_sizes(facts: Facts) -> Iterator[Sentence]:
    """Yield the sizes of training images if they differ, and the classes that they make tiny."""
    frames = facts["anchors"]["at_training"]
    test = facts["detector"]["frame"]["short"]
    shorts = [at["frame"]["short"] for at in frames]
    if not min(shorts) <= test <= max(shorts):
        sizes = " to ".join(str(short) for short in shorts)
        text = f"The shorter side of a test image is {test} px, and of a training image {sizes} px."
        yield Sentence("yellow", "sizes", text)
    at_test = facts["anchors"]["per_class"]
    for at in frames:
        worse = [
            name
            for name, now, then in zip(_names(facts), at_test, at["per_class"], strict=True)
            if now["objects"] and then["0.5"] < RECALL_RED <= now["recall"]["0.5"]
        ]
        if worse:
            text = (
                f"{listed(worse, SHOWN)}: most objects have no anchor of IoU .5 in training images "
                f"of {at['frame']['short']} px."
            )
            yield Sentence("yellow", "anchors", text)


def _remedy(remedy: Facts) -> str:
    ways = []
    if remedy["size"] is not None:
        ways.append(f"add size {remedy['size']}")
    if remedy["short"] is not None:
        ways.append(f"train at {remedy['short']} px")
    return " or ".join(ways) or "change the sizes and ratios of the anchors"


def _share_of_positives(facts: Facts) -> Iterator[Sentence]:
    rows = facts["anchors"]["per_class"]
    starved = [
        index
        for index, row in enumerate(rows)
        if row["positives_over_objects"] is not None and row["positives_over_objects"] < NEUTRAL
    ]
    if starved:
        objects = sum(facts["classes"]["per_class"][index]["share"] for index in starved)
        positives = sum(rows[index]["share_of_positives"] for index in starved)
        names = [_names(facts)[index] for index in starved]
        text = (
            f"{listed(names, SHOWN)}: {percent(objects)} of all objects, but {percent(positives)} "
            "of all positive anchors."
        )
        yield Sentence("yellow", "anchors", text)
    stolen = facts["anchors"]["stolen"]
    if stolen >= 0.01:
        text = f"{percent(stolen)} of objects lose all of their anchors to other objects."
        yield Sentence("yellow", "anchors", text)
    forced = facts["anchors"]["forced"]
    if forced is not None and forced >= 0.1:
        text = f"{percent(forced)} of positives exist only as the best anchors of an object."
        yield Sentence("yellow", "anchors", text)


def _levels(facts: Facts) -> Iterator[Sentence]:
    unused = facts["anchors"]["unused_levels"]
    if unused:
        text = f"No anchor of {listed(unused)} is positive, so the level adds background only."
        if len(unused) > 1:
            text = f"No anchors of {listed(unused)} are positive: they add background only."
        yield Sentence("yellow", "anchors", text)


def _classes(facts: Facts) -> Iterator[Sentence]:
    classes = facts["classes"]
    rows = classes["per_class"]
    if classes["absent"]:
        names = [rows[index]["name"] for index in classes["absent"]]
        yield Sentence(
            "yellow", "classes", f"No training image has an object of {listed(names, SHOWN)}."
        )
    few = [f"{row['name']} ({row['objects']})" for row in rows if 0 < row["objects"] < FEW_OBJECTS]
    if few:
        yield Sentence(
            "yellow",
            "classes",
            f"Some classes have fewer than {FEW_OBJECTS} objects: {listed(few, SHOWN)}.",
        )
    yield from _imbalance(classes)


def _imbalance(classes: Facts) -> Iterator[Sentence]:
    rows, ratio = classes["per_class"], classes["imbalance_ratio"]
    if len(rows) < 2 or classes["head"] == classes["tail"]:
        return
    head, tail = rows[classes["head"]], rows[classes["tail"]]
    text = f"{head['name']} has {number(ratio)} times the objects of {tail['name']}."
    if ratio < IMBALANCED:
        yield Sentence("green", "classes", text)
        return
    if tail["with_head"] >= ALWAYS_WITH_HEAD:
        text += (
            f" {percent(tail['with_head'])} of the images of {tail['name']} also have "
            f"{head['name']}, so sampling of images cannot separate them."
        )
    yield Sentence("yellow", "classes", text)


def _sizes(facts: Facts) -> Iterator[Sentence]:
    sizes = facts["sizes"]
    if sizes["below_finest_stride"] >= BELOW_STRIDE:
        yield Sentence(
            "yellow",
            "sizes",
            f"{percent(sizes['below_finest_stride'])} of objects are smaller than "
            f"{sizes['finest_stride']} px, the finest stride.",
        )
    if sizes["duplicate"] >= DUPLICATES:
        text = f"{percent(sizes['duplicate'])} of objects have a duplicate: same class, IoU .95."
        yield Sentence("yellow", "sizes", text)


def _background(facts: Facts) -> Iterator[Sentence]:
    ratio = facts["background"]["bg_fg"]
    if ratio is None:
        yield Sentence("red", "background", "No anchor is positive, so nothing is learned.")
        return
    severity: Severity = "yellow" if ratio >= BACKGROUND else "green"
    yield Sentence(
        severity,
        "background",
        f"There are {number(ratio)} background anchors for each positive one.",
    )


def _loss(facts: Facts) -> Iterator[Sentence]:
    shares = [
        f"{percent(row['negatives_of_loss'])} of {_loss_name(row)}"
        for row in facts["loss"]["rows"]
        if row.get("negatives_of_loss") is not None
    ]
    own = facts["loss"]["rows"][0].get("negatives_of_loss")
    if shares:
        severity: Severity = "yellow" if own is not None and own > 0.5 else "green"
        text = f"Before the first step, background anchors cause {', '.join(shares)}."
        yield Sentence(severity, "loss", text)


def _loss_name(row: Facts) -> str:
    return f"the config's {row['loss']}" if row["name"] == "config" else row["name"]


def _normalizer(facts: Facts) -> Iterator[Sentence]:
    normalizer = facts["loss"]["normalizer"]
    init, batch = normalizer["init"], normalizer["positives_per_batch"]
    if init is None or batch is None:
        return
    text = (
        f"A batch of {normalizer['images_per_batch']} images has {number(batch['mean'])} positive "
        f"anchors, and MODEL.FOCAL.NORMALIZER.INIT is {number(init)}"
    )
    if 0.1 <= batch["mean"] / init <= 10:
        yield Sentence("green", "loss", f"{text}.")
    else:
        larger = "larger" if batch["mean"] > init else "smaller"
        yield Sentence("yellow", "loss", f"{text}: the first losses are {larger} than later ones.")


def _ceilings(facts: Facts) -> Iterator[Sentence]:
    ceilings = facts["ceilings"]
    if ceilings["nms"] >= NMS:
        yield Sentence(
            "yellow",
            "ceilings",
            f"{percent(ceilings['nms'])} of objects have a neighbor of their class with an IoU of "
            f"{ceilings['nms_thresh']:g}, at which NMS keeps one.",
        )
    if ceilings["detections_lost"]:
        severity: Severity = "red" if ceilings["detections_lost"] >= LOST else "yellow"
        yield Sentence(
            severity,
            "ceilings",
            f"TEST.DETECTIONS_PER_IMAGE is {ceilings['detections_per_image']}, which loses "
            f"{percent(ceilings['detections_lost'])} of objects.",
        )
    if ceilings["topk_images"]:
        yield Sentence(
            "yellow",
            "ceilings",
            f"{percent(ceilings['topk_images'])} of images have more objects than "
            f"MODEL.RETINANET.TOPK_CANDIDATES_TEST, {ceilings['topk_candidates']}.",
        )
