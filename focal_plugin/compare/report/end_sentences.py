"""Sentences on the end of training, and on the machines."""

from __future__ import annotations

from ...pages.text import count_text, listed
from ..analysis.busy import SLOW
from ..analysis.progress import RISING
from ..analysis.summary import Summary


def end_of_training_sentences(summary: Summary) -> list[str]:
    """Return which arms still rise at the end; [] without evaluations during training."""
    ends = {arm: end for arm, end in summary.ends.items() if end is not None}
    if not ends:
        return []
    first = next(iter(ends.values()))
    part = f"from iteration {first.since:,} to {first.iterations:,}"
    rising = [f"{arm} ({end.mean:+.1f})" for arm, end in ends.items() if end.still_rising]
    flat = [arm for arm, end in ends.items() if not end.still_rising]
    found = []
    if rising:
        be = "rises" if len(rising) == 1 else "rise"
        found.append(
            f"AP still {be} at the end, {part}: {listed(rising)}. A longer training may change the "
            f"order of the arms."
        )
    if flat:
        found.append(
            f"AP rises by at most {RISING:g}, or not in every seed, {part}: {listed(flat)}."
        )
    return found


def machine_sentences(summary: Summary) -> list[str]:
    """Return which runs were slow, and how many began on a busy machine."""
    found = []
    slow = [f"{run.name} ({run.ratio:.1f} x)" for runs in summary.slow.values() for run in runs]
    if slow:
        found.append(
            f"More than {SLOW:g} x the median time of their arm: {listed(slow)}. Their machine may "
            f"have been busy."
        )
    if summary.load is not None and summary.load.busy:
        found.append(
            f"{summary.load.busy} of {count_text(summary.load.recorded, 'run')} began while the "
            f"processors were busy, at most {summary.load.largest:.1f} x over. Their times are not "
            f"those of an idle machine."
        )
    return found
