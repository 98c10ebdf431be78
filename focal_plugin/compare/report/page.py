"""HTML report of a comparison: one page without scripts and without network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..analysis.summary import Summary
from . import sentences
from .cells import plain
from .drawing import Drawing
from .plotting import inline_svg
from .qualitative import Grid
from .sections import CHAPTERS, contents

MANY_SENTENCES = 10


@dataclass(frozen=True)
class Figure:
    """Drawing in the form that the page shows."""

    name: str
    title: str
    caption: str
    svg: Markup


def inlined(drawing: Drawing, source: str) -> Figure:
    """Return a drawing for the page; ``source`` is its SVG."""
    text = inline_svg(source, name=drawing.name, title=drawing.title)
    # matplotlib has escaped the text in it
    return Figure(drawing.name, drawing.title, drawing.caption, Markup(text))


def html_page(summary: Summary, figures: Sequence[Figure], grid: Grid | None) -> str:
    """Return the page; ``grid`` holds the images on which the arms differ most, if any."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = plain
    by_name = {figure.name: figure for figure in figures}
    shown = contents(summary, by_name, ["pictures"] if grid is not None else [])
    chapters = [
        (id_, CHAPTERS[id_], list(of_chapter))
        for id_, of_chapter in groupby(shown, key=lambda content: content.section.chapter)
    ]
    return environment.get_template("report.html.j2").render(
        summary=summary,
        chapters=chapters,
        many_sentences=MANY_SENTENCES,
        figures=by_name,
        grid=None if grid is None else _grid(grid, summary),
        failed=[run for run in summary.runs if run.state == "failed"],
        start_sentences=sentences.start_sentences,
    )


def _grid(grid: Grid, summary: Summary) -> dict[str, Any]:
    choice = summary.detections.choice
    assert choice is not None  # the grid shows it
    return {
        "seed": choice.seed,
        "columns": [(plain(arm), f"{choice.thresholds[arm]:.2f}") for arm in grid.arms],
        "rows": [list(zip(map(_data_uri, r.pictures), r.texts, strict=True)) for r in grid.rows],
        "problems": grid.problems,
    }


def _data_uri(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
