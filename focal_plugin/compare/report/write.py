"""Writes the report of a comparison, finished or not: HTML, Markdown, JSON, LaTeX and figures."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import write_all
from ...forked import in_processes, usable_processes
from ...garbage_collection import garbage_collection_paused
from ...pages.drawing import Drawing
from ...pages.page import inlined
from ...pages.plotting import pdf, png, svg
from ..analysis.evaluated_runs import REPLICATES
from ..analysis.summary import Summary, summarize
from .csv_tables import csv_text
from .figures import draw_all
from .json_content import json_content
from .latex import latex_report, latex_tables
from .markdown import markdown_report
from .page import html_page
from .qualitative import Grid, draw_grid
from .sections import sections_of

HTML, MARKDOWN, JSON, LATEX = "report.html", "report.md", "report.json", "report.tex"
_FIGURE_FILE = re.compile(r"figures/[a-z0-9-]+\.(png|svg|pdf)")


@dataclass(frozen=True)
class ReportFiles:
    """
    Files of a report.

    Attributes:
        tables: CSV files.
        figures: figures, each as PNG, SVG and PDF.
        summary: numbers that the files show.
    """

    html: Path
    markdown: Path
    json: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    summary: Summary


def write_report(
    folder: Path, *, replicates: int = REPLICATES, reference: str | None = None
) -> ReportFiles:
    """
    Write `report.html`, `.md`, `.json` and `.tex`, `tables/*` and `figures/*` into ``folder``.

    The same runs make the same bytes. If the command is interrupted or the disk is full, the
    previous report stays.

    Args:
        folder: folder of the comparison.
        replicates: resamples of the images for each arm, see
            :mod:`~focal_plugin.compare.analysis.detections.bootstrap`.
        reference: arm that the others are compared with; None for that of the plan, which stays.

    Raises:
        FileNotFoundError: there is no comparison in ``folder``.
        KeyError: ``reference`` is not an arm.
    """
    summary = summarize(folder, replicates=replicates, reference=reference)
    return write_summary(summary, folder, root=folder)


def write_summary(summary: Summary, folder: Path, *, root: Path) -> ReportFiles:
    """
    Write the report of a summary; see :func:`write_report`.

    Args:
        folder: folder of the report, which may not exist yet.
        root: folder that the files of detections are relative to.
    """
    files: dict[str, bytes] = {}
    figures = []
    with garbage_collection_paused():  # a figure has many objects, which live as long as it
        drawings = draw_all(summary)
        formats, grid = _drawn(drawings, summary, root)
    for drawing, of_figure in zip(drawings, formats, strict=True):
        files.update(
            {f"figures/{drawing.name}.{ending}": of_figure[ending] for ending in of_figure}
        )
        figures.append(inlined(drawing, of_figure["svg"].decode()))
    if grid is not None and grid.rows:
        files["figures/images.png"] = grid.sheet()
    for section in sections_of(summary):
        for name, rows in section.csv:
            files[f"tables/{name}"] = csv_text(rows(summary)).encode()
    for name, text in latex_tables(summary).items():
        files[f"tables/{name}.tex"] = text.encode()
    files[LATEX] = latex_report(summary, drawings).encode()
    files[MARKDOWN] = markdown_report(summary, drawings, grid).encode()
    content = {**json_content(summary), "files": sorted(files)}
    files[JSON] = (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
    files[HTML] = html_page(summary, figures, grid).encode()
    outdated = _figures_of(folder / JSON) - files.keys()
    for subfolder in ("figures", "tables"):
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
    write_all({folder / name: content for name, content in files.items()})  # the page last
    for name in outdated:
        (folder / name).unlink(missing_ok=True)
    paths = {name: folder / name for name in files}
    return ReportFiles(
        html=paths[HTML],
        markdown=paths[MARKDOWN],
        json=paths[JSON],
        tables=tuple(path for name, path in paths.items() if name.endswith(".csv")),
        figures=tuple(path for name, path in paths.items() if name.startswith("figures/")),
        summary=summary,
    )


def _drawn(
    drawings: Sequence[Drawing], summary: Summary, root: Path
) -> tuple[list[dict[str, bytes]], Grid | None]:
    """Return the files of each drawing, by the ending of the name, and the grid of the images."""
    choice = summary.detections.choice

    def draw(index: int) -> Any:
        if index == len(drawings):
            return None if choice is None else draw_grid(choice, root)
        figure = drawings[index].figure
        return {"png": png(figure), "svg": svg(figure).encode(), "pdf": pdf(figure)}

    results = in_processes(draw, len(drawings) + 1, usable_processes())
    *formats, grid = (result() for result in results)
    return formats, grid


def _figures_of(report: Path) -> set[str]:
    """Return the figures of the previous report; the new one may not have all of them."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
        return {name for name in files if _FIGURE_FILE.fullmatch(name)}
    return set()
