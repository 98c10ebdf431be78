"""Tables for people: on a page, in Markdown and on a terminal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """
    Table for people; every cell is text.

    Attributes:
        name: letters, digits and `-`.
        caption: explanation of the table; "" if the header suffices.
        left: number of text columns at the left; all others are numbers.
        text_last: True if the last column is text, too.
    """

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    left: int = 1
    text_last: bool = False

    def is_text(self, column: int) -> bool:
        """Return True if a column is text, aligned left."""
        return column < self.left or (self.text_last and column == len(self.header) - 1)
