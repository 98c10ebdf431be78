"""Section on the lists of detections: their length, their score cut-off, and what both may cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...pages.table import Table
from ...pages.text import NOTHING, listed, plain
from ..analysis.arm_lists import ArmLists
from ..analysis.summary import Summary
from ..plan.score_threshold import STOCK_SCORE_THRESHOLD
from .cells import spread_text
from .csv_tables import Cell

STOCK = f"{STOCK_SCORE_THRESHOLD:g}"
CAPTION = (
    "Detections that the evaluations kept. The limit is the largest number on an image, over all "
    f"classes. The last two columns are the AP, in percent, that a score cut-off of {STOCK} "
    "(Detectron2's default) or half the limit would cost. Both are computed from these lists, "
    "without another evaluation of the model."
)


def list_table(summary: Summary) -> Table | None:
    """Return the lengths of the lists of each arm; None without an evaluation."""
    lists = _lists(summary)
    if not lists:
        return None
    known = any(of_arm.cut_offs for of_arm in lists.values())
    limited = any(of_arm.limit for of_arm in lists.values())
    header = ["arm", *(["score cut-off"] if known else []), "lowest score", "per image"]
    header += [*(["limit", "images at the limit"] if limited else []), f"AP lost at {STOCK}"]
    header += ["AP lost at half the limit"] if limited else []
    rows = []
    for arm, found in lists.items():
        cells = [plain(arm)]
        if known:
            cells.append(", ".join(f"{value:g}" for value in found.cut_offs) or NOTHING)
        cells.append(NOTHING if found.lowest is None else f"{found.lowest:.2g}")
        cells.append(spread_text(found.per_image))
        if limited:
            cells.append(str(found.limit or NOTHING))
            cells.append(f"{found.full.mean or 0:.0f}%")
        cells.append(spread_text(found.cut_cost, digits=2))
        if limited:
            cells.append(spread_text(found.limit_cost, digits=2))
        rows.append(tuple(cells))
    return Table("lists", tuple(header), tuple(rows), CAPTION)


def list_sentences(summary: Summary) -> list[str]:
    """Return what cut-offs and limits cost, or may cost, the arms."""
    lists = {plain(arm): of_arm for arm, of_arm in _lists(summary).items()}
    return [*_on_cut_offs(lists), *_on_costs(lists)]


def list_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per arm."""
    yield [
        *("arm", "cut_off_low", "cut_off_high", "lowest_score", "detections_per_image", "limit"),
        *("images_at_limit_percent", f"ap_lost_at_{STOCK}", "ap_lost_at_half_limit"),
    ]
    for arm, found in _lists(summary).items():
        cut_offs = (found.cut_offs[0], found.cut_offs[-1]) if found.cut_offs else (None, None)
        means = (found.full.mean, found.cut_cost.mean, found.limit_cost.mean)
        yield [arm, *cut_offs, found.lowest, found.per_image.mean, found.limit, *means]


def _lists(summary: Summary) -> dict[str, ArmLists]:
    arms = summary.detections.arms.items()
    return {arm: found.lists for arm, found in arms if found.lists.per_image.n}


def _on_cut_offs(lists: dict[str, ArmLists]) -> Iterator[str]:
    by_cut_off: dict[tuple[float, ...], list[str]] = {}
    for arm, found in lists.items():
        if found.cut_offs:
            by_cut_off.setdefault(found.cut_offs, []).append(arm)
    if len(by_cut_off) > 1:
        told = "; ".join(
            f"{listed(arms)} from {' or '.join(f'{value:g}' for value in cut_offs)} on"
            for cut_offs, arms in by_cut_off.items()
        )
        yield (
            f"The arms keep detections from different scores on, so a part of a difference may be "
            f"that of the cut-offs: {told}."
        )
    cut = {arm: found.cut_above for arm, found in lists.items() if found.cut_above is not None}
    if cut:
        from_scores = " or ".join(dict.fromkeys(f"{value:g}" for value in cut.values()))
        yield (
            f"The config of {listed([*cut])} drops detections below a score of {from_scores}. How "
            f"much AP this costs is not known, because those detections are gone."
        )
    for arm, found in lists.items():
        if found.looks_cut:
            yield (
                f"The lowest score of {arm} is {found.lowest:.2g}. If its detections were cut "
                f"there, its AP is too low by an unknown amount."
            )


def _on_costs(lists: dict[str, ArmLists]) -> Iterator[str]:
    costs = [
        f"{arm} {found.cost_at_stock:.1f}"
        for arm, found in lists.items()
        if found.cost_at_stock is not None
    ]
    if costs:
        yield (
            f"A score cut-off of {STOCK}, Detectron2's default, would cost AP: {listed(costs)}. Do "
            f"not compare these arms with AP that was measured with such a cut-off."
        )
    for arm, found in lists.items():
        if found.cost_at_half is not None:
            yield (
                f"On {found.full.mean:.0f}% of the images, {arm} has {found.limit} detections, the "
                f"limit. With half of them its AP would be {found.cost_at_half:.1f} lower, so a "
                f"higher limit may raise it."
            )
