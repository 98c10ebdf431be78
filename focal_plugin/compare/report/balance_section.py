"""Section on the balance of classification loss and box loss."""

from __future__ import annotations

from collections.abc import Iterable

from ...pages.table import Table
from ...pages.text import NOTHING, compact_text, plain
from ...run_folder import MOMENTS
from ..analysis.loss_balance import LARGEST_FACTOR, ArmBalance
from ..analysis.summary import Summary
from .csv_tables import Cell

TIMES = "\N{MULTIPLICATION SIGN}/"
CAPTION = (
    "Ratio of the gradient norms of classification loss and box loss, at the last features that "
    "both share. The norms are those of training steps on fixed test images, with all weights of "
    f"the losses. Means over the seeds are geometric. The number after {TIMES} is the geometric "
    "standard deviation between the seeds. A factor is the ratio over that of the reference. The "
    "last column names the moments at which it is above "
    f"{LARGEST_FACTOR:g} or below 1/{LARGEST_FACTOR:g}. There is no ratio if a norm is 0 or not "
    "finite."
)
REMARK = (
    "Part of such an arm's difference in AP may be the balance, not the loss or the mining. "
    "The key loss_weights of a spec tunes it."
)
NO_RATIO = "no ratio"
_WORDS = {"start": "start", "final": "end"}


def balance_table(summary: Summary) -> Table | None:
    """Return the balance of each part and arm; None if no run recorded one."""
    found = summary.balances
    rows = []
    for part in found.parts:
        for arm in summary.arms:
            of_arm = [found.of(arm, part, moment) for moment in MOMENTS]
            if any(of_arm):
                cells = (cell for balance in of_arm for cell in _cells(balance))
                flags = [_WORDS[b.moment] for b in of_arm if b is not None and b.differs]
                rows.append((plain(arm), part, *cells, ", ".join(flags)))
    if not rows:
        return None
    header = ("arm", "part", "start", "factor", "end", "factor", "differs")
    return Table("balance", header, tuple(rows), CAPTION, left=2, text_last=True)


def balance_sentences(summary: Summary) -> list[str]:
    """Return one sentence for each balance that differs, and what it means."""
    flagged = summary.balances.flagged
    if not flagged:
        return []
    several = len(summary.balances.parts) > 1
    return [*(_sentence(b, summary.reference, several=several) for b in flagged), REMARK]


def balance_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per part, arm and moment."""
    yield ["part", "arm", "moment", "iteration", "ratio", "spread", "n", "factor", "differs"]
    for b in summary.balances.arms:
        count = sum(value is not None for value in b.by_seed.values())
        numbers = [b.iteration, b.ratio, b.spread, count, b.factor]
        yield [b.part, b.arm, b.moment, *numbers, str(b.differs)]


def _cells(balance: ArmBalance | None) -> tuple[str, str]:
    if balance is None:
        return NOTHING, NOTHING
    if balance.ratio is None:
        return NO_RATIO, NOTHING
    text = compact_text(balance.ratio)
    if balance.spread is not None:
        text += f" {TIMES} {balance.spread:.2f}"
    return text, NOTHING if balance.factor is None else compact_text(balance.factor)


def _sentence(balance: ArmBalance, reference: str, *, several: bool) -> str:
    ratio, factor = balance.ratio, balance.factor
    assert ratio is not None
    assert factor is not None  # the balance differs
    verb = "starts" if balance.moment == "start" else "ends"
    where = f" in {balance.part}" if several else ""
    size = f"{_short(factor)} times" if factor > 1 else f"1/{_short(1 / factor)} of"
    return (
        f"{balance.arm} {verb} with a classification : box ratio of {_short(ratio)}{where}, {size} "
        f"that of {reference} ({_short(ratio / factor)})."
    )


def _short(value: float) -> str:
    """Return two significant digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
