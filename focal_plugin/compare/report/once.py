"""Sentences and captions that a page prints once, however many sections have them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from ...pages.drawing import Drawing
from ...pages.page import Figure
from .sections import Content

Captioned = TypeVar("Captioned", Figure, Drawing)


def contents_once(contents: Sequence[Content]) -> list[Content]:
    """Return sections without the sentences, also of captions, that an earlier one has."""
    said: set[str] = set()
    shown = []
    for content in contents:
        new = [text for text in dict.fromkeys(content.sentences) if text not in said]
        said.update(new)
        tables = [replace(t, caption=_unsaid(t.caption, said)) for t in content.tables]
        shown.append(replace(content, sentences=new, tables=tables))
    return shown


def captions_once(figures: Iterable[Captioned]) -> list[Captioned]:
    """Return figures without the sentences of captions that an earlier figure has."""
    said: set[str] = set()
    return [replace(figure, caption=_unsaid(figure.caption, said)) for figure in figures]


def _unsaid(text: str, said: set[str]) -> str:
    """Return the sentences of ``text`` that are not in ``said``, and add them to it."""
    new = [s for s in re.split(r"(?<=[.!?]) (?=[A-Z])", text) if s and s not in said]
    said.update(new)
    return " ".join(new)
