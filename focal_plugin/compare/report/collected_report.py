"""Report over several datasets or folds: HTML, Markdown, JSON, LaTeX, CSV and figures."""

from __future__ import annotations

import json
from collections.abc import Collection as Names
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...pages.drawing import Drawing
from ...pages.page import Figure, render
from ...pages.table import Table
from ...pages.text import count_text, listed, plain
from ..analysis.collected import Collected
from . import collected_tables as tables
from .collected_figures import draw_collected
from .csv_tables import csv_text
from .how_to_report import bibtex, collected_paragraph
from .json_content import strict
from .latex import latex_document, latex_table, latex_text
from .markdown import content_blocks, markdown_text
from .once import captions_once, contents_once
from .page import MANY_SENTENCES
from .sections import CHAPTERS, Content, Section, chapters
from .write import HTML, LATEX, MARKDOWN, drawn, write_files


def write_collected(collected: Collected, folder: Path) -> Path:
    """
    Write `report.html`, `.md`, `.json` and `.tex`, `tables/*` and `figures/*` into ``folder``.

    Returns:
        the page.
    """
    drawings, figures, files, _ = drawn(lambda: draw_collected(collected), lambda: None)
    files["tables/over_datasets.csv"] = csv_text(tables.over_rows(collected)).encode()
    files["tables/by_dataset.csv"] = csv_text(tables.dataset_rows(collected)).encode()
    found = collected_contents(collected, [drawing.name for drawing in drawings])
    in_latex = {
        table.name: latex_table(table, content.title or CHAPTERS[content.section.chapter])
        for content in found
        for table in content.tables
    }
    for name, text in in_latex.items():
        files[f"tables/{name}.tex"] = text.encode()
    files[LATEX] = _latex(collected, in_latex.values(), drawings).encode()
    files[MARKDOWN] = _markdown(collected, found, drawings).encode()
    files[HTML] = _page(collected, found, figures).encode()
    write_files(files, folder, lambda names: _json(collected, names))
    return folder / HTML


def terminal_collected(collected: Collected) -> str:
    """Return the answer, and the sentences that limit it."""
    parts = [*tables.headlines(collected)]
    for found in (collected.equal, collected.best or ()):
        parts += map(plain, tables.standing_sentences(collected, found))
    return "\n".join(dict.fromkeys(parts))


def collected_contents(collected: Collected, figures: Names[str] = ()) -> list[Content]:
    """Return the sections that have any content, in the order of the report."""
    both = collected.best is not None
    made = [
        _content(
            "verdicts",
            "verdict",
            "At the same settings for all" if both else "",
            [
                tables.verdict_table(collected, collected.equal, "over-datasets"),
                tables.agreement_table(collected, collected.equal, "agreement"),
            ],
            tables.standing_sentences(collected, collected.equal),
            [name for name in ("forest-datasets",) if name in figures],
        ),
        _content(
            "verdicts-best",
            "verdict",
            "At each arm's best setting",
            [
                tables.verdict_table(collected, collected.best or (), "over-datasets-best"),
                tables.agreement_table(collected, collected.best or (), "agreement-best"),
            ],
            tables.standing_sentences(collected, collected.best or ()) if both else [],
            [name for name in ("forest-datasets-best",) if name in figures],
        ),
        _content(
            "by-dataset", "sources", f"Each {collected.kind}", [tables.dataset_table(collected)]
        ),
        _content(
            "ranks",
            "sources",
            "Ranks",
            [tables.rank_table(collected)],
            tables.rank_sentences(collected),
            [name for name in ("ranks",) if name in figures],
        ),
        _content("data", "provenance", "Data and runs", [tables.data_table(collected)]),
    ]
    if paragraph := collected_paragraph(collected):
        first = next(iter(collected.members.values()))
        citation = _content("citation", "citation", "", code=bibtex(first), lead=paragraph)
        made.append(citation)
    return [c for c in made if c.tables or c.sentences or c.figures or c.lead]


def _content(
    name: str,
    chapter: str,
    title: str,
    made: Sequence[Table | None] = (),
    sentences: Sequence[str] = (),
    figures: Sequence[str] = (),
    *,
    lead: str = "",
    code: str = "",
) -> Content:
    return Content(
        section=Section(name, chapter),
        title=title,
        lead=lead,
        sentences=list(sentences),
        tables=[table for table in made if table is not None],
        figures=list(figures),
        code=code,
    )


def _state(collected: Collected) -> str:
    summaries = collected.members.values()
    runs = sum(len(summary.runs) for summary in summaries)
    done = sum(summary.states["done"] for summary in summaries)
    seeds = next(iter(summaries)).seeds
    return (
        f"{count_text(len(collected.arms), 'arm')} on "
        f"{count_text(len(collected.members), collected.kind)} with "
        f"{count_text(len(seeds), 'seed')}, against {plain(collected.reference)}. {done} of "
        f"{count_text(runs, 'run')} done."
    )


def _page(collected: Collected, found: Sequence[Content], figures: Sequence[Figure]) -> str:
    return render(
        Path(__file__).with_name("collected.html.j2"),
        collected=collected,
        answers=tables.headlines(collected),
        state=_state(collected),
        chapters=chapters(contents_once(found)),
        figures={figure.name: figure for figure in captions_once(figures)},
        many_sentences=MANY_SENTENCES,
    )


def _markdown(collected: Collected, found: Sequence[Content], drawings: Sequence[Drawing]) -> str:
    by_name = {drawing.name: drawing for drawing in captions_once(drawings)}
    links = [
        f"[{markdown_text(name)}]({folder}/report.md)" for name, folder in collected.folders.items()
    ]
    blocks = [f"# {markdown_text(collected.name)}"]
    blocks += [f"**{markdown_text(answer)}**" for answer in tables.headlines(collected)]
    blocks += [markdown_text(_state(collected))]
    blocks += [f"Each {collected.kind} has a report of its own: {listed(links, most=len(links))}."]
    blocks += content_blocks(contents_once(found), by_name)
    return "\n\n".join(blocks) + "\n"


def _latex(collected: Collected, in_latex: Names[str], drawings: Sequence[Drawing]) -> str:
    parts = []
    if paragraph := collected_paragraph(collected):
        parts = ["\\section*{How to report this}", latex_text(paragraph)]
    return latex_document(
        collected.name, tables.headlines(collected), [*parts, *in_latex], drawings
    )


def _json(collected: Collected, names: Sequence[str]) -> str:
    content: dict[str, Any] = {
        "name": collected.name,
        "kind": collected.kind,
        "arms": collected.arms,
        "reference": collected.reference,
        "folders": collected.folders,
        "headlines": tables.headlines(collected),
        "equal": [asdict(each) for each in collected.equal],
        "best": None if collected.best is None else [asdict(each) for each in collected.best],
        "ranks": None if collected.ranks is None else asdict(collected.ranks),
        "train_images": collected.train_images,
        "test_images": collected.test_images,
        "files": names,
    }
    return json.dumps(strict(content), indent=1, allow_nan=False) + "\n"
