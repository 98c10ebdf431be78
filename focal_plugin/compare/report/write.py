"""Writes the report of a comparison, finished or not: HTML, Markdown, JSON, LaTeX and figures."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...files import write_all
from ...forked import in_processes, usable_processes
from ...garbage_collection import garbage_collection_paused
from ...pages.drawing import Drawing
from ...pages.page import Figure, inlined
from ...pages.plotting import lay_out, pdf, png, svg
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

T = TypeVar("T")

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
    choice = summary.detections.choice

    def grid_of_images() -> Grid | None:
        return None if choice is None else draw_grid(choice, root)

    drawings, figures, files, grid = drawn(lambda: draw_all(summary), grid_of_images)
    if grid is not None and grid.rows:
        files["figures/images.png"] = grid.sheet()
    for section in sections_of(summary):
        for name, rows in section.csv:
            files[f"tables/{name}"] = csv_text(rows(summary)).encode()
    for name, text in latex_tables(summary).items():
        files[f"tables/{name}.tex"] = text.encode()
    files[LATEX] = latex_report(summary, drawings).encode()
    files[MARKDOWN] = markdown_report(summary, drawings, grid).encode()
    files[HTML] = html_page(summary, figures, grid).encode()

    def json_text(names: Sequence[str]) -> str:
        content = {**json_content(summary), "files": names}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    write_files(files, folder, json_text)
    paths = {name: folder / name for name in files}
    return ReportFiles(
        html=paths[HTML],
        markdown=paths[MARKDOWN],
        json=folder / JSON,
        tables=tuple(path for name, path in paths.items() if name.endswith(".csv")),
        figures=tuple(path for name, path in paths.items() if name.startswith("figures/")),
        summary=summary,
    )


def drawn(
    draw: Callable[[], list[Drawing]], also: Callable[[], T]
) -> tuple[list[Drawing], list[Figure], dict[str, bytes], T]:
    """
    Draw figures, and do other work at the same time, in several processes.

    The other work starts first, because it takes longer than a figure.

    Returns:
        the drawings, their form for the page, their files as PNG, SVG and PDF, and the result of
        ``also``.
    """

    def work(index: int) -> Any:
        if index == 0:
            return also()
        figure = drawings[index - 1].figure
        lay_out(figure)
        return {"png": png(figure), "svg": svg(figure).encode(), "pdf": pdf(figure)}

    files: dict[str, bytes] = {}
    figures = []
    with garbage_collection_paused():  # a figure has many objects, which live as long as it
        drawings = draw()
        results = in_processes(work, len(drawings) + 1, usable_processes())
        other, *formats = (result() for result in results)
    for drawing, of_figure in zip(drawings, formats, strict=True):
        files |= {f"figures/{drawing.name}.{end}": content for end, content in of_figure.items()}
        figures.append(inlined(drawing, of_figure["svg"].decode()))
    return drawings, figures, files, other


def write_files(
    files: Mapping[str, bytes], folder: Path, json_text: Callable[[Sequence[str]], str]
) -> None:
    """
    Write the files of a report, and remove figures that only the previous report has.

    Args:
        files: path below the folder -> content; the page is written last.
        json_text: makes `report.json` from the names of all files but the page and itself.
    """
    names = sorted(name for name in files if name != HTML)
    outdated = _figures_of(folder / JSON) - files.keys()
    for subfolder in ("figures", "tables"):
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
    page = {HTML: files[HTML]}
    others = {name: files[name] for name in files if name != HTML}
    ordered = {**others, JSON: json_text(names).encode(), **page}
    write_all({folder / name: content for name, content in ordered.items()})
    for name in outdated:
        (folder / name).unlink(missing_ok=True)


def _figures_of(report: Path) -> set[str]:
    """Return the figures of the previous report; the new one may not have all of them."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
        return {name for name in files if _FIGURE_FILE.fullmatch(name)}
    return set()
