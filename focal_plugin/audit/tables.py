"""Tables of the page of an audit."""

from __future__ import annotations

from typing import Any

from ..pages.table import Table
from ..pages.text import NOTHING, number_text, plain
from .page_order import left_out, worst_classes
from .sentences import number, percent

Facts = dict[str, Any]

MOST_ROWS = 20


def class_table(facts: Facts) -> Table:
    """Return the classes with objects, those with the lowest recall first."""
    shown = worst_classes(facts, MOST_ROWS)
    rows = []
    for index in shown:
        counted = facts["classes"]["per_class"][index]
        anchors = facts["anchors"]["per_class"][index]
        side = facts["sizes"]["per_class"][index]["side"]
        rows.append(
            (
                plain(counted["name"]),
                f"{counted['objects']:,}",
                f"{counted['images']:,}",
                f"{side['p5']:.0f} to {side['p95']:.0f}",
                number_text(anchors["recall"]["0.5"], 3),
                f"{anchors['positives_per_object']['mean']:.1f}",
                _share(anchors["without_positives_by_iou"]),
                _share(counted["share"]),
                _share(anchors["share_of_positives"]),
            )
        )
    header = (
        *("class", "objects", "images", "side, px", "recall at IoU .5", "positives per object"),
        *("without any of that IoU", "share of objects", "share of positives"),
    )
    caption = (
        "Sides are in pixels of the network's input, from the 5th to the 95th percentile. "
        "Recall is the share of objects with an anchor of IoU .5."
    )
    return Table("classes", header, tuple(rows), caption + left_out(facts, len(shown)))


def level_table(facts: Facts) -> Table:
    """Return the levels with their anchors and their background."""
    detector, anchors, background = (facts[key] for key in ("detector", "anchors", "background"))
    shares = anchors["positives_by_level"] or [None] * len(detector["levels"])
    sizes = detector["sizes"] * (len(shares) if len(detector["sizes"]) == 1 else 1)
    rows = [
        (plain(name), f"{stride}", ", ".join(f"{size:.4g}" for size in of_level), *cells)
        for name, stride, of_level, *cells in zip(
            detector["levels"],
            detector["strides"],
            sizes,
            map(_share, shares),
            map(_number, background["bg_fg_by_level"]),
            strict=True,
        )
    ]
    header = ("level", "stride", "anchor sizes, px", "of positives", "background per positive")
    return Table("levels", header, tuple(rows))


def loss_table(facts: Facts) -> Table:
    """Return the losses before the first step."""
    rows = [
        (
            plain(row["name"]),
            plain(row["loss"]),
            _number(row.get("per_positive")),
            _share(row.get("negatives_of_loss")),
            _share(row.get("negatives_of_gradient")),
        )
        for row in facts["loss"]["rows"]
    ]
    header = ("", "loss", "per positive", "background of the loss", "of the gradient")
    return Table("losses", header, tuple(rows), left=2)


def split_table(facts: Facts) -> Table | None:
    """Return the splits; None without test sets."""
    splits = facts["splits"]
    if not splits["tests"]:
        return None
    rows = [
        (
            plain(split["name"]),
            f"{split['images']:,}",
            f"{split['copies']['images']:,}",
            NOTHING if split["near_copies"] is None else f"{split['near_copies']['images']:,}",
            *_drift_cells(split.get("drift")),
        )
        for split in (splits["train"], *splits["tests"])
    ]
    header = ("dataset", "images", "copies", "near copies", "class drift", "by chance")
    caption = (
        "Copies are images with the bytes of a training image; near copies have its picture in "
        "other bytes, which are searched with --images. Class drift is the share of objects that "
        "would have to change their class for the shares of the training set."
    )
    return Table("splits", header, tuple(rows), caption)


def decidable_table(facts: Facts, test: Facts) -> Table | None:
    """Return the classes of a test set with the fewest objects; None without objects."""
    rows = [row for row in test["classes"] if row["half_width"] is not None]
    if not rows:
        return None
    shown = [
        (plain(r["name"]), f"{r['train']:,}", f"{r['test']:,}", f"±{100 * r['half_width']:.0f}")
        for r in rows[:MOST_ROWS]
    ]
    more = len(rows) - MOST_ROWS
    caption = f"{plain(test['name'])}: the 95% interval of a recall of .5, in points."
    if more > 0:
        caption += f" {more:,} more classes have more objects."
    place = facts["splits"]["tests"].index(test)
    header = ("class", "objects in training", "objects in the test set", "recall of .5")
    return Table(f"decidable-{place}", header, tuple(shown), caption)


def _drift_cells(drift: Facts | None) -> tuple[str, str]:
    if drift is None:
        return NOTHING, NOTHING
    return _share(drift["total_variation"]), _share(drift["expected"])


def _share(value: float | None) -> str:
    return NOTHING if value is None else percent(value)


def _number(value: float | None) -> str:
    return NOTHING if value is None else number(value)
