"""Looks of a spec that says `seeds: auto`: planned from the spread of earlier comparisons."""

from __future__ import annotations

import sys
from pathlib import Path

from .analysis.designs import plan_looks
from .analysis.pilot import spread_of_pilots
from .plan.comparison import Comparison
from .plan.design import Design, LooksToPlan
from .plan.spec_file import Spec


def choose_looks(spec: Spec, to_plan: LooksToPlan, output: Path) -> Design:
    """
    Return the looks of a spec.

    A comparison that has started keeps its looks, because looks that depend on results of their own
    comparison are no plan.

    Args:
        spec: the spec; its looks are still to be planned.
        to_plan: how to plan them.
        output: folder of the comparison.

    Raises:
        ValueError: the spread between seeds is not known, or too many seeds would be necessary.
    """
    started = Comparison.read_if_any(output)
    if started is not None and started.design is not None and started.arms == tuple(spec.arms):
        return started.design
    std, source = to_plan.std, "the spec"
    if std is None:
        pilots = to_plan.pilots or earlier_comparisons(spec, output)
        std = spread_of_pilots(pilots)
        source = ", ".join(pilot.name for pilot in pilots)
    if not std:
        raise ValueError(
            "seeds: the looks are planned from the standard deviation between seeds, and no "
            f"earlier comparison of the same base config in {output.parent} tells it. Give it as "
            "std, or as pilot, the folder of a finished comparison"
        )
    design = plan_looks(std, to_plan.effect, max(1, len(spec.arms) - 1), to_plan.power)
    looks = ", ".join(map(str, design.looks))
    print(
        f"Looks after {looks} seeds find {to_plan.effect:g} AP with a power of {to_plan.power:.0%} "
        f"at a standard deviation of {std:.2f} between seeds (from {source}).",
        file=sys.stderr,
    )
    return design


def earlier_comparisons(spec: Spec, output: Path) -> tuple[Path, ...]:
    """Return the comparisons beside ``output`` that train on a base config of the spec."""
    files = {str(arm.config_file) for arm in spec.arms.values()}
    found = []
    for folder in sorted(output.parent.iterdir()) if output.parent.is_dir() else ():
        comparison = Comparison.read_if_any(folder)
        of_other = folder.resolve() != output.resolve()
        if of_other and comparison and files & {run.config_file for run in comparison.runs}:
            found.append(folder)
    return tuple(found)
