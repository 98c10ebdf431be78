"""The page of text that `focal-plugin audit` prints."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from ..pages.text import NOTHING, count_text, listed, number_text, plain
from .audit import Audit
from .proposal_yaml import proposal_yaml
from .sentences import percent

COLORS = {"red": "\x1b[31m", "yellow": "\x1b[33m", "green": "\x1b[32m"}
END = "\x1b[0m"

ROWS = 20
"""Classes in the table; of more, those with the most and with the fewest objects are shown."""

HEADER = (
    "class",
    "objects",
    "images",
    "side px",
    "recall .5",
    "positives",
    "of objects",
    "of positives",
)


def text_page(audit: Audit, *, colored: bool) -> str:
    """
    Return an audit as a page of text.

    Args:
        colored: whether the severities are in color.
    """
    facts = audit.facts
    table = tabulate(_rows(facts), HEADER, "simple", disable_numparse=True, colalign=_ALIGNED)
    parts = ["\n".join(_head(facts)), table, *_left_out(facts)]
    width = max(len(severity) for severity in COLORS)
    lines = [
        f"{_in_color(sentence.severity, width) if colored else sentence.severity:<{width}}  "
        f"{plain(sentence.text)}"
        for sentence in audit.sentences
    ]
    return "\n\n".join([*parts, "\n".join(lines), *_proposal(facts)])


_ALIGNED = ("left", *("right",) * (len(HEADER) - 1))


def _in_color(severity: str, width: int) -> str:
    return f"{COLORS[severity]}{severity:<{width}}{END}"


def _head(facts: dict[str, Any]) -> list[str]:
    images, detector = facts["images"], facts["detector"]
    crowds = f", {count_text(images['crowds'], 'crowd region')}" if images["crowds"] else ""
    short, longest = detector["frame"]["short"], detector["frame"]["longest"]
    size = f"shorter side {short} px, longer at most {longest} px" if short else "as in the files"
    lines = [
        f"{listed([plain(name) for name in images['train']])}: "
        f"{count_text(images['images'], 'image')}, {count_text(images['objects'], 'object')}"
        f"{crowds}",
        f"images: {size}",
    ]
    background = facts["background"]
    if background["anchors"] is not None:
        anchors, positives = (background[name]["mean"] for name in ("anchors", "positives"))
        lines.append(
            f"{detector['kind']} per image: {anchors:,.0f} anchors, {positives:,.1f} positive"
        )
    return lines


def _rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    return [_row(facts, index) for index in _shown(facts)]


def _shown(facts: dict[str, Any]) -> list[int]:
    """Return the classes of the table, by rank."""
    ranked = sorted(facts["classes"]["per_class"], key=lambda row: row["rank"])
    indices = [row["index"] for row in ranked]
    half = ROWS // 2
    return indices if len(indices) <= ROWS else [*indices[:half], *indices[-half:]]


def _left_out(facts: dict[str, Any]) -> list[str]:
    more = len(facts["classes"]["per_class"]) - ROWS
    return [f"{count_text(more, 'class')[:-1]}es between are not shown."] if more > 0 else []


def _row(facts: dict[str, Any], index: int) -> tuple[str, ...]:
    counted = facts["classes"]["per_class"][index]
    anchors = facts["anchors"]["per_class"][index]
    side = facts["sizes"]["per_class"][index]["side"]
    positives = anchors["positives_per_object"]
    return (
        plain(counted["name"]),
        f"{counted['objects']:,}",
        f"{counted['images']:,}",
        NOTHING if side is None else f"{side['p5']:.0f} {side['p50']:.0f} {side['p95']:.0f}",
        number_text(anchors["recall"]["0.5"], 3),
        NOTHING if positives is None else f"{positives['mean']:.1f}",
        _share(counted["share"]),
        _share(anchors["share_of_positives"]),
    )


def _proposal(facts: dict[str, Any]) -> list[str]:
    """Return the proposal of anchors as YAML, if there is one."""
    if facts["proposal"]["status"] != "proposed":
        return []
    text = proposal_yaml(facts["proposal"]).rstrip()
    return [f"Proposal, for a config with yours as its _BASE_:\n\n{text}"]


def _share(value: float | None) -> str:
    return NOTHING if value is None else percent(value)
