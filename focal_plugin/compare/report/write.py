"""The report of a comparison, finished or not: a page, and the same as Markdown, JSON and CSV."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ...files import write_all
from ...run_folder import DETECTIONS_FILE, MOMENTS
from ..analysis.detection_analysis import REPLICATES
from ..analysis.scores import Standing
from ..analysis.summary import Summary, summarize
from . import sentences, tables
from .cells import plain
from .csv_tables import csv_files
from .figures import Drawing, draw_all
from .json_content import json_content
from .plotting import inline_svg, png, svg
from .qualitative import Grid, draw_grid
from .tables import Table, markdown_table, markdown_text

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"
MANY_SENTENCES = 10
_FIGURE_FILE = re.compile(r"figures/[a-z0-9-]+\.(png|svg)")


@dataclass(frozen=True)
class ReportFiles:
    """
    Attributes:
        tables: CSV.
        figures: each as PNG and as SVG.
        summary: what they say.
    """

    html: Path
    markdown: Path
    json: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    summary: Summary


@dataclass(frozen=True)
class Figure:
    """A drawing as the page shows it."""

    name: str
    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class VerdictSection:
    """A standing as the page shows it."""

    title: str
    headline: str
    sentences: tuple[str, ...]
    table: Table
    figure: Figure | None


def write_report(folder: Path, *, replicates: int = REPLICATES) -> ReportFiles:
    """
    Write `report.html`, `report.md`, `report.json`, `tables/*.csv` and `figures/*` into ``folder``.

    The same runs make the same bytes. Interrupted, or out of disk space, it leaves the report that
    was there before.

    Args:
        folder: of the comparison.
        replicates: resamples of the images for each arm, see :mod:`~..detections.bootstrap`.

    Raises:
        FileNotFoundError: there is no comparison in ``folder``.
    """
    summary = summarize(folder, replicates=replicates)
    drawings = draw_all(summary)
    grid = _draw_images(summary, folder)
    files: dict[str, bytes] = {}
    inlined = {}
    for drawing in drawings:
        source = svg(drawing.figure)
        files[f"figures/{drawing.name}.png"] = png(drawing.figure)
        files[f"figures/{drawing.name}.svg"] = source.encode()
        inlined[drawing.name] = _inline(drawing, source)
    if grid is not None and grid.rows:
        files["figures/images.png"] = grid.sheet()
    for name, text in csv_files(summary).items():
        files[f"tables/{name}"] = text.encode()
    files[MARKDOWN] = _markdown(summary, drawings, grid).encode()
    content = {**json_content(summary), "files": sorted(files)}
    files[JSON] = (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
    files[HTML] = _page(summary, inlined, grid).encode()
    outdated = _figures_of(folder / JSON) - files.keys()
    for subfolder in ("figures", "tables"):
        (folder / subfolder).mkdir(exist_ok=True)
    write_all({folder / name: content for name, content in files.items()})  # the page last
    for name in outdated:
        (folder / name).unlink(missing_ok=True)
    paths = {name: folder / name for name in files}
    return ReportFiles(
        html=paths[HTML],
        markdown=paths[MARKDOWN],
        json=paths[JSON],
        tables=tuple(path for name, path in paths.items() if name.startswith("tables/")),
        figures=tuple(path for name, path in paths.items() if name.startswith("figures/")),
        summary=summary,
    )


def _draw_images(summary: Summary, folder: Path) -> Grid | None:
    choice = summary.detections.choice
    if choice is None:
        return None
    return draw_grid(
        choice, {arm: folder / id_ / DETECTIONS_FILE for arm, id_ in choice.runs.items()}
    )


def _inline(drawing: Drawing, source: str) -> Figure:
    inlined = inline_svg(source, name=drawing.name, title=drawing.title)
    # matplotlib escaped what is text in it
    return Figure(drawing.name, drawing.title, drawing.caption, Markup(inlined))


def _figures_of(report: Path) -> set[str]:
    """Those of the report before, of which some may not be in the new one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
        return {name for name in files if _FIGURE_FILE.fullmatch(name)}
    return set()


def _page(summary: Summary, figures: Mapping[str, Figure], grid: Grid | None) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = plain
    template = environment.get_template("report.html.j2")
    return template.render(
        summary=summary,
        verdicts=_verdicts(summary, figures),
        many_sentences=MANY_SENTENCES,
        sentences=sentences,
        figures=figures,
        tables=_tables(summary),
        grid=None if grid is None else _grid(grid, summary),
        failed=[run for run in summary.runs if run.state == "failed"],
    )


def _verdicts(summary: Summary, figures: Mapping[str, Figure]) -> list[VerdictSection]:
    shown = []
    for standing, name in ((summary.equal, "forest"), (summary.best, "forest-best")):
        if standing is not None:
            shown.append(
                VerdictSection(
                    title=_title(summary, standing),
                    headline=sentences.headline(standing, summary.reference),
                    sentences=tuple(
                        map(plain, sentences.standing_sentences(standing, summary.reference))
                    ),
                    table=tables.verdict_table(summary, standing),
                    figure=figures.get(name),
                )
            )
    return shown


def _title(summary: Summary, standing: Standing) -> str:
    """Empty if there is only one."""
    return "" if summary.best is None else tables.rates_title(standing)


def _tables(summary: Summary) -> dict[str, Table]:
    made: Iterable[Callable[[Summary], Table | None]] = (
        tables.averages_table,
        tables.class_table,
        tables.error_table,
        tables.image_table,
        tables.tuning_table,
        tables.cost_table,
        tables.config_table,
        tables.start_table,
        tables.run_table,
        tables.fact_table,
        tables.data_table,
    )
    found = [make(summary) for make in made]
    found += [
        tables.audit_table(summary, part, moment)
        for part in summary.losses.parts
        for moment in MOMENTS
    ]
    return {table.name: table for table in found if table is not None}


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


def _markdown(summary: Summary, drawings: list[Drawing], grid: Grid | None) -> str:
    found = _tables(summary)
    blocks = [f"# {markdown_text(summary.name)}", _markdown_state(summary)]
    for standing in (summary.equal, summary.best):
        if standing is None:
            continue
        title = _title(summary, standing)
        table = tables.verdict_table(summary, standing)
        blocks += [f"## Verdict{': ' + title[0].lower() + title[1:] if title else ''}"]
        blocks += [markdown_text(sentences.headline(standing, summary.reference))]
        blocks += [markdown_table(table), f"*{table.caption}*"]
        blocks += [_markdown_list(sentences.standing_sentences(standing, summary.reference))]
    titles = {
        "images": "Other test images",
        "tuning": "Learning rates tried",
        "averages": "Averages",
        "classes": "Classes",
        "errors": "Error types",
        "costs": "Cost",
        "configs": "Config keys in which arms differ",
        "starts": "How the arms started",
        "runs": "Runs",
        "versions": "Versions",
        "data": "Data",
    }
    audits = {name: name.replace("-", " ").capitalize() for name in found if "audit" in name}
    for name, title in (titles | audits).items():
        if name in found:
            blocks += [f"## {title}", markdown_table(found[name])]
            blocks += [f"*{found[name].caption}*"] if found[name].caption else []
    notes = [
        *sentences.recommendation_sentences(summary),
        *sentences.fairness_sentences(summary),
        *sentences.provenance_sentences(summary.provenance),
        *sentences.problem_sentences(summary.detections.problems, summary.reference),
        *sentences.problem_sentences(summary.losses.problems, summary.reference),
    ]
    blocks += ["## Notes", _markdown_list(notes)]
    blocks += ["## Figures"]
    for drawing in drawings:
        title = markdown_text(drawing.title)
        blocks += [f"![{title}](figures/{drawing.name}.png)"]
        blocks += [f"**{title}.** {markdown_text(drawing.caption)}"]
    if grid is not None and grid.rows:
        columns = ", ".join(markdown_text(arm) for arm in ("ground truth", *grid.arms))
        blocks += ["![Images on which the arms differ most](figures/images.png)"]
        blocks += [f"**Images on which the arms differ most.** From left to right: {columns}."]
    return "\n\n".join(blocks) + "\n"


def _markdown_list(items: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_text(item)}" for item in items)


def _markdown_state(summary: Summary) -> str:
    states = ", ".join(f"{number} {state}" for state, number in summary.states.items() if number)
    seeds = ", ".join(map(str, summary.seeds))
    return (
        f"{len(summary.arms)} arms, seeds {seeds}; reference {markdown_text(summary.reference)}. "
        f"Runs: {states}."
    )
