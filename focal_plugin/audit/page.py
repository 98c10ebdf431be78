"""HTML page of an audit: one file without scripts and without network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..pages.page import Figure, inlined, render
from ..pages.plotting import svg
from ..pages.table import Table
from .audit import Audit
from .figures import draw_all
from .proposal_yaml import proposal_yaml
from .tables import class_table, decidable_table, level_table, loss_table, split_table

Facts = dict[str, Any]

MOST_TESTS = 5
"""Test sets whose classes are in a table of their own."""


class _Room(NamedTuple):
    """
    One section of the page and what belongs in it.

    Attributes:
        tables: function that makes its tables, some of which may be None.
        figures: names of its figures.
        code: function that makes a file to copy; "" for none.
    """

    id: str
    title: str
    tables: Callable[[Facts], list[Table | None]] = lambda facts: []
    figures: tuple[str, ...] = ()
    code: Callable[[Facts], str] = lambda facts: ""


def _split_tables(facts: Facts) -> list[Table | None]:
    tests = facts["splits"]["tests"][:MOST_TESTS]
    return [split_table(facts), *(decidable_table(facts, test) for test in tests)]


def _offered(facts: Facts) -> str:
    proposal = facts["proposal"]
    return proposal_yaml(proposal) if proposal["status"] == "proposed" else ""


ROOMS = (
    _Room(
        "anchors",
        "Anchors and sizes",
        lambda facts: [class_table(facts), level_table(facts)],
        ("recall-by-side", "sides", "levels"),
    ),
    _Room(
        "proposal",
        "Proposal",
        code=_offered,
    ),
    _Room("classes", "Classes", figures=("positives",)),
    _Room(
        "background",
        "Background and loss",
        lambda facts: [loss_table(facts)],
    ),
    _Room("splits", "Splits", _split_tables),
)


class Section(NamedTuple):
    """One section of the page; parts that a dataset does not have are empty."""

    id: str
    title: str
    tables: Sequence[Table]
    figures: Sequence[Figure]
    code: str


def html_page(audit: Audit) -> str:
    """Return the page of an audit."""
    figures = {d.name: inlined(d, svg(d.figure)) for d in draw_all(audit.facts)}
    sections = [_section(room, audit.facts, figures) for room in ROOMS]
    return render(
        Path(__file__).with_name("page.html.j2"),
        facts=audit.facts,
        sentences=audit.sentences,
        sections=[section for section in sections if any(section[2:])],
    )


def _section(room: _Room, facts: Facts, figures: dict[str, Figure]) -> Section:
    has_objects = bool(facts["images"]["objects"])
    tables = room.tables(facts) if has_objects else []
    return Section(
        room.id,
        room.title,
        [table for table in tables if table is not None],
        [figures[name] for name in room.figures if name in figures],
        room.code(facts) if has_objects else "",
    )
