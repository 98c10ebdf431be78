"""Styles by which the arms are told apart in all figures of a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...pages.plotting import INK, PALETTE, REST

if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType

MOST_COLORED = len(PALETTE) + 1  # plus the reference, in ink
DASHES: tuple[LineStyleType, ...] = ("solid", (0, (5, 1.6)), (0, (1.2, 1.2)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")


@dataclass(frozen=True)
class ArmStyle:
    """Style of an arm in all figures; ``colored`` is False for the gray arms."""

    color: str
    dash: LineStyleType
    marker: str
    colored: bool


def arm_styles(arms: tuple[str, ...], reference: str, shown: list[str]) -> dict[str, ArmStyle]:
    """
    Return the style of each arm.

    The reference is in ink, the first arms of ``shown`` are in color, and all others are gray,
    because nobody can tell twenty colors apart.

    Args:
        shown: arms, the most interesting first.
    """
    colored = [arm for arm in shown if arm != reference][: len(PALETTE)]
    if len(arms) <= MOST_COLORED:  # the order of the spec keeps colors stable
        colored = [arm for arm in arms if arm != reference]
    styles = dict.fromkeys(arms, ArmStyle(REST, "solid", ".", colored=False))
    styles[reference] = ArmStyle(INK, "solid", MARKERS[0], colored=True)
    for i, arm in enumerate(colored):
        dash = DASHES[(i // 3) % len(DASHES)]
        styles[arm] = ArmStyle(PALETTE[i], dash, MARKERS[(i + 1) % len(MARKERS)], colored=True)
    return styles
