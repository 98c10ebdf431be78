"""Reports of a folder: of one comparison, or of several and of all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..analysis.collected import collect
from ..analysis.evaluated_runs import REPLICATES
from ..analysis.summary import Summary
from ..plan.collection import Collection
from .collected_report import terminal_collected, write_collected
from .terminal import terminal_report
from .write import write_report


@dataclass(frozen=True)
class Reported:
    """
    Reports that were written.

    Attributes:
        html: page of the comparison, or of all of them together.
        terminal: text for the terminal.
        summaries: folder of each comparison -> its summary.
    """

    html: Path
    terminal: str
    summaries: dict[Path, Summary]


def report_all(
    folder: Path, *, replicates: int = REPLICATES, reference: str | None = None
) -> Reported:
    """
    Write the report of a comparison; of several datasets or folds, also that over all of them.

    Args:
        folder: output folder of `focal-compare run`.
        replicates, reference: see :func:`~.write.write_report`.

    Raises:
        FileNotFoundError: the folder contains no comparison.
        KeyError: ``reference`` is not an arm.
        ValueError: the comparisons do not belong together, or a plan is damaged.
    """
    collection = Collection.read(folder)
    if collection is None:
        files = write_report(folder, replicates=replicates, reference=reference)
        return Reported(files.html, terminal_report(files.summary), {folder: files.summary})
    members, summaries = {}, {}
    for member in collection.members:
        own = folder / member.folder
        written = write_report(own, replicates=replicates, reference=reference)
        members[member.name] = summaries[own] = written.summary
    collected = collect(collection, members)
    html = write_collected(collected, folder)
    parts = [f"{name}\n\n{terminal_report(summary)}" for name, summary in members.items()]
    return Reported(html, "\n\n".join([*parts, terminal_collected(collected)]), summaries)
