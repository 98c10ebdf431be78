"""Markdown report of a comparison."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence

from ...pages.drawing import Drawing
from ...pages.table import Table
from ...pages.text import plain
from ..analysis.summary import Summary
from .headline import headlines
from .once import captions_once, contents_once
from .qualitative import Grid
from .sections import CHAPTERS, Content, contents
from .sentences import reference_note
from .tables import aligned


def markdown_report(summary: Summary, drawings: Sequence[Drawing], grid: Grid | None) -> str:
    """Return the report with links to its figures; ``grid`` is the sheet of images, if any."""
    blocks = [f"# {markdown_text(summary.name)}"]
    blocks += [f"**{markdown_text(answer)}**" for answer in headlines(summary)]
    blocks += [_state(summary), *filter(None, [markdown_text(reference_note(summary))])]
    by_name = {drawing.name: drawing for drawing in captions_once(drawings)}
    has_images = grid is not None and grid.rows
    shown = contents_once(contents(summary, by_name, ["pictures"] if has_images else []))
    blocks += content_blocks(shown, by_name, grid)
    return "\n\n".join(blocks) + "\n"


def content_blocks(
    shown: Iterable[Content], by_name: Mapping[str, Drawing], grid: Grid | None = None
) -> list[str]:
    """Return sections with their headings."""
    blocks: list[str] = []
    chapter = ""
    for content in shown:
        if content.section.chapter != chapter:
            chapter = content.section.chapter
            blocks += [f"## {CHAPTERS[chapter]}"]
        blocks += [f"### {markdown_text(content.title)}"] if content.title else []
        blocks += [markdown_text(content.lead)] if content.lead else []
        blocks += [_bullets(content.sentences)] if content.sentences else []
        for table in content.tables:
            blocks += [markdown_table(table)]
            blocks += [f"*{table.caption}*"] if table.caption else []
        for name in content.figures:
            title = markdown_text(by_name[name].title)
            blocks += [f"![{title}](figures/{name}.png)"]
            blocks += [f"**{title}.** {markdown_text(by_name[name].caption)}"]
        blocks += [f"```\n{content.code}\n```"] if content.code else []
        if content.section.name == "pictures" and grid is not None:
            columns = ", ".join(markdown_text(arm) for arm in ("ground truth", *grid.arms))
            blocks += [f"![{content.title}](figures/images.png)"]
            blocks += [f"From left to right: {columns}."]
    return blocks


def markdown_table(table: Table) -> str:
    """Return a table of GitHub's Markdown; names in it are text, never markup."""
    header = [markdown_text(cell) for cell in table.header]
    rows = [[markdown_text(cell) for cell in row] for row in table.rows]
    return aligned(table, rows, header, "github")


def markdown_text(text: str) -> str:
    """Return ``text`` escaped, so that Markdown shows it as it is: no tags, links or cells."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(plain(text), quote=False))


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_text(item)}" for item in items)


def _state(summary: Summary) -> str:
    states = ", ".join(f"{number} {state}" for state, number in summary.states.items() if number)
    seeds = ", ".join(map(str, summary.seeds))
    runs = f"Runs: {states}" if summary.trained else f"Result files: {len(summary.files)}"
    return (
        f"{len(summary.arms)} arms, seeds {seeds}; reference {markdown_text(summary.reference)}. "
        f"{runs}."
    )
