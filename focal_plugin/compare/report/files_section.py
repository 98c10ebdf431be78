"""Section on judged result files, in place of the runs."""

from __future__ import annotations

from collections.abc import Iterable

from ...pages.table import Table
from ...pages.text import count_text, plain
from ..analysis.summary import Summary
from .cells import value_text
from .csv_tables import Cell

LEAD = (
    "AP is computed here from these files and equals that of pycocotools. File i of each arm is "
    "its seed i, so the arms are compared file by file."
)


def file_table(summary: Summary) -> Table | None:
    """Return every file with its digest; None without judged files."""
    if summary.trained:
        return None
    rows = [
        (
            plain(found.arm),
            str(found.seed),
            plain(found.file),
            found.sha256,
            f"{found.detections:,}",
            value_text(found.ap),
        )
        for found in summary.files
    ]
    header = ("arm", "seed", "file", "sha256", "detections", "AP")
    return Table("files", header, tuple(rows), left=4)


def file_sentences(summary: Summary) -> list[str]:
    """Return the pairs that are compared if the arms have different numbers of files."""
    files = {arm: sum(found.arm == arm for found in summary.files) for arm in summary.arms}
    against = files.get(summary.reference, 0)
    return [
        f"{plain(arm)} has {count_text(number, 'file')} and {plain(summary.reference)} has "
        f"{against:,}, so the first {count_text(min(number, against), 'pair')} "
        f"{'is' if min(number, against) == 1 else 'are'} compared."
        for arm, number in files.items()
        if number != against
    ]


def file_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per file."""
    yield ["arm", "seed", "file", "sha256", "detections", "AP"]
    for found in summary.files:
        ap = found.ap
        yield [found.arm, found.seed, found.file, found.sha256, found.detections, ap]
