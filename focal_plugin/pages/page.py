"""HTML page of one file, without scripts and without network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from .drawing import Drawing
from .plotting import inline_svg
from .text import plain


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


def render(template: Path, **values: Any) -> str:
    """
    Return a page; every value is escaped.

    Args:
        template: Jinja2 template that extends `base.html.j2` of this package.
        values: what the template shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = plain
    return environment.get_template(template.name).render(**values)
