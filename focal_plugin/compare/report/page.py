"""HTML report of a comparison: one page without scripts and without network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...pages.page import Figure, render
from ...pages.text import plain
from ..analysis.summary import Summary
from . import sentences
from .headline import headlines
from .once import captions_once, contents_once
from .qualitative import Grid
from .sections import chapters, contents
from .sentences import reference_note

MANY_SENTENCES = 10


def html_page(summary: Summary, figures: Sequence[Figure], grid: Grid | None) -> str:
    """Return the page; ``grid`` holds the images on which the arms differ most, if any."""
    by_name = {figure.name: figure for figure in captions_once(figures)}
    shown = contents_once(contents(summary, by_name, ["pictures"] if grid is not None else []))
    return render(
        Path(__file__).with_name("report.html.j2"),
        summary=summary,
        answers=headlines(summary),
        reference_note=reference_note(summary),
        chapters=chapters(shown),
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
