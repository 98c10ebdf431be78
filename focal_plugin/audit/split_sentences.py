"""Sentences about the splits of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..pages.text import count_text, listed, plain
from .class_shares import half_width
from .sentence import Sentence
from .sentences import SHOWN, percent

Facts = dict[str, Any]

LEAKING = 0.01
"""Share of copies in a test set from which on its AP is no measurement."""
REPEATED = 0.01
"""Share of copies within the training set from which on a sentence warns."""
DRIFT, OVER_CHANCE = 0.1, 2.0
"""Total variation of the classes from which on a sentence warns, and its ratio to chance."""
WIDE = 0.1
"""Half width of the interval of a recall from which on a class is hard to decide."""


def split_sentences(facts: Facts) -> list[Sentence]:
    """
    Return the sentences about splits.

    Args:
        facts: result of :func:`~focal_plugin.audit.splits.split_facts`.
    """
    found = [*_within(facts["train"])]
    for test in facts["tests"]:
        found += [*_leaks(facts["train"], test), *_drift(test), *_decidable(test)]
    return [*found, *_unreadable(facts["unreadable"])]


def _within(train: Facts) -> Iterator[Sentence]:
    for kind, copies in _kinds(train):
        num, images = copies["images"], train["images"]
        if num and num >= REPEATED * images:
            yield Sentence(
                "yellow",
                "splits",
                f"{num:,} of {count_text(images, 'training image')} {_are(num)} {kind} of others, "
                f"such as {_example(copies)}. They count twice.",
            )


def _leaks(train: Facts, test: Facts) -> Iterator[Sentence]:
    name, images = plain(test["name"]), test["images"]
    leaks = [(kind, copies) for kind, copies in _kinds(test) if copies["images"]]
    for kind, copies in leaks:
        num = copies["images"]
        text = (
            f"{num:,} of {count_text(images, 'image')} of {name} {_are(num)} {kind} of training "
            f"images, such as {_example(copies)}."
        )
        if num >= LEAKING * images:
            yield Sentence("red", "splits", f"{text} Its AP measures memory; split again.")
        else:
            yield Sentence("yellow", "splits", f"{text} Remove them from one of the sets.")
    if test["readable"] and not leaks:
        compared = "bytes" if test["near_copies"] is None else "bytes or the picture"
        which = "No" if test["readable"] == images else f"No readable ({test['readable']:,})"
        text = f"{which} image of {name} has the {compared} of a training image."
        yield Sentence("green", "splits", text)


def _kinds(split: Facts) -> Iterator[tuple[str, Facts]]:
    yield "copies", split["copies"]
    if split["near_copies"] is not None:
        yield "near copies", split["near_copies"]


def _are(number: int) -> str:
    return "is one of the" if number == 1 else "are"


def _example(copies: Facts) -> str:
    copy, original = (plain(file.rpartition("/")[2]) for file in copies["pairs"][0])
    return f"{copy} of {original}"


def _drift(test: Facts) -> Iterator[Sentence]:
    name, drift = plain(test["name"]), test["drift"]
    if drift["only_test"]:
        who, has, its = _classes(drift["only_test"])
        text = f"{who} {has} objects in {name}, but none in training, so {its} AP will be 0."
        yield Sentence("red", "splits", text)
    if drift["only_train"] and drift["total_variation"] is not None:
        who, has, its = _classes(drift["only_train"])
        text = f"{who} {has} no objects in {name}, so {its} AP stays unknown."
        yield Sentence("yellow", "splits", text)
    variation, expected = drift["total_variation"], drift["expected"]
    if variation is None:
        yield Sentence("yellow", "splits", f"{name} has no objects to compare with.")
    elif variation >= DRIFT and variation > OVER_CHANCE * expected:
        yield Sentence(
            "yellow",
            "splits",
            f"{percent(variation)} of the objects of {name} would have to change their class for "
            f"the shares of the training set; by chance it would be {percent(expected)}.",
        )


def _classes(names: list[str]) -> tuple[str, str, str]:
    """Return names as a subject, with its verb and its pronoun."""
    who = listed([plain(name) for name in names], SHOWN)
    return (who, "has", "its") if len(names) == 1 else (who, "have", "their")


def _decidable(test: Facts) -> Iterator[Sentence]:
    rows = [row for row in test["classes"] if row["half_width"] is not None]
    wide = [row for row in rows if row["half_width"] >= WIDE]
    if wide:
        names = [f"{plain(row['name'])} ({row['test']:,})" for row in wide]
        text = f"{plain(wide[0]['name'])}: {count_text(wide[0]['test'], 'object')} in "
        text += f"{plain(test['name'])}: a recall of .5 is known to {_points(wide[0])} points."
        if len(wide) > 1:
            text += f" Few objects, too: {listed(names[1:], SHOWN)}."
        yield Sentence("yellow", "splits", text)
    elif rows:
        text = (
            f"Every class has {rows[0]['test']:,} objects or more in {plain(test['name'])}: a "
            f"recall of .5 is known to {_points(rows[0])} points."
        )
        yield Sentence("green", "splits", text)


def _points(row: Facts) -> str:
    return f"±{100 * (half_width(row['test']) or 0):.0f}"


def _unreadable(unreadable: Facts) -> Iterator[Sentence]:
    num = unreadable["images"]
    if num:
        first = unreadable["files"][0]
        text = f"{count_text(num, 'image file')} cannot be compared, such as "
        text += f"{plain(first['file'])}: {plain(first['reason'])}."
        yield Sentence("yellow", "splits", text)
