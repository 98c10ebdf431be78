"""Table of the recipe of a comparison."""

from __future__ import annotations

from ...pages.table import Table
from ...pages.text import listed, plain
from ..analysis.summary import Summary


def recipe_table(summary: Summary) -> Table | None:
    """Return what the runs were made of; None if none has started."""
    rows = []
    for each in summary.recipe:
        values = [
            plain(value) + (f" ({listed(list(map(plain, arms)))})" if each.differs else "")
            for value, arms in each.values.items()
        ]
        rows.append((each.name, "; ".join(values)))
    return (
        Table("recipe", ("", "all runs, unless arms are named"), tuple(rows), left=2)
        if rows
        else None
    )
