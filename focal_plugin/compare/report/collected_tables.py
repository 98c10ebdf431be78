"""Tables and sentences of a report over several datasets or folds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...pages.table import Table
from ...pages.text import (
    NOTHING,
    are,
    count_text,
    interval_text,
    listed,
    number_text,
    p_text,
    plain,
    signed,
)
from ..analysis.collected import Collected
from ..analysis.over_datasets import FEWEST_DATASETS, OverDatasets
from ..analysis.statistics import ALPHA
from ..plan.design import FEWEST_SEEDS
from .cells import spread_text
from .csv_tables import Cell
from .precision import difference_text, digits_of, is_decided, verdict_interval_text

ON_THESE = (
    "AP is the mean over the datasets, which count equally. Its error is that of the seeds, so the "
    "verdict is about these datasets. It requires two seeds on each."
)
ON_OTHERS = (
    "Wilcoxon's signed-rank test treats the datasets as a sample of others like them, and ignores "
    "how certain each difference is."
)
ON_FOLDS = (
    "AP is the mean over the folds. Their training sets overlap, so the interval and the verdict "
    "use the corrected variance of Nadeau and Bengio (2003). They are about training sets of this "
    f"size from the same source. A verdict requires {FEWEST_SEEDS} folds."
)


def headline(collected: Collected, found: Sequence[OverDatasets]) -> str:
    """Return the answer in one sentence."""
    reference, where = plain(collected.reference), _over(collected)
    if not found:
        return "There is only one arm, so there is nothing to compare."
    if all(each.difference is None for each in found):
        return f"No arm has a finished seed in common with {reference} yet."
    parts = []
    for decision, words in (
        ("higher", "above"),
        ("lower", "below"),
        ("equivalent", "equivalent to"),
        ("not worse", "not worse than"),
    ):
        if group := [each for each in found if each.decision == decision]:
            parts.append(
                f"{_named(group, collected)} {are(['' for _ in group])} {words} {reference}"
            )
    if group := [each for each in found if each.decision == "undecided"]:
        parts.append(f"undecided: {_named(group, collected)}")
    text = f"{'; '.join(parts)}, on average over {where}."
    return text[0].upper() + text[1:]


def headlines(collected: Collected) -> list[str]:
    """Return the answer at equal settings, then that at the best ones if there are any."""
    equal = headline(collected, collected.equal)
    if collected.best is None:
        return [equal]
    best = headline(collected, collected.best)
    return [f"At the same settings for all: {equal}", f"At each arm's best setting: {best}"]


def _named(group: Iterable[OverDatasets], collected: Collected) -> str:
    """Return `FL (+2.0 AP) and GHM (+1.0 AP, on 2 of 3)`."""
    names = []
    for each in group:
        on = f"{len(each.datasets)} of {len(collected.members)}"
        where = "" if len(each.datasets) == len(collected.members) else f", on {on}"
        size = f" ({difference_text(each)} AP{where})" if each.difference else ""
        names.append(f"{plain(each.arm)}{size}")
    return listed(names)


def _over(collected: Collected) -> str:
    return count_text(len(collected.members), collected.kind)


def verdict_table(collected: Collected, found: Sequence[OverDatasets], name: str) -> Table | None:
    """Return the verdicts over all datasets; None for one arm."""
    if not found:
        return None
    reference = (plain(collected.reference), number_text(_mean_ap(collected)))
    rows = [(*reference, NOTHING, NOTHING, NOTHING, "reference")]
    for each in found:
        rows.append(
            (
                plain(each.arm),
                number_text(each.ap),
                difference_text(each) if each.difference else NOTHING,
                verdict_interval_text(each),
                NOTHING if each.p is None else p_text(each.p),
                each.decision,
            )
        )
    return Table(
        name=name,
        header=("arm", "AP", "difference", f"{1 - ALPHA:.0%} interval", "p (Holm)", "verdict"),
        rows=tuple(rows),
        text_last=True,
        caption=ON_FOLDS if collected.kind == "fold" else ON_THESE,
    )


def agreement_table(collected: Collected, found: Sequence[OverDatasets], name: str) -> Table | None:
    """Return how far the datasets agree; None without a difference."""
    shown = [each for each in found if each.difference is not None]
    if not shown:
        return None
    ranked = any(each.signed_rank_p is not None for each in shown)
    rows = []
    for each in shown:
        other = (NOTHING if each.signed_rank_p is None else p_text(each.signed_rank_p),)
        rows.append(
            (
                plain(each.arm),
                f"{each.positive} of {len(each.datasets)}",
                f"{each.wins}, {each.ties}, {each.losses}",
                _range_text(each),
                _improvement_text(each),
                *(other if ranked else ()),
            )
        )
    kind = collected.kind
    return Table(
        name=name,
        header=(
            *("arm", f"{kind}s above", "higher, tie, lower", "smallest to largest difference"),
            "P(improvement)",
            *(("p (Wilcoxon)",) if ranked else ()),
        ),
        rows=tuple(rows),
        caption=(
            f"Above: {kind}s on which the mean difference is positive. Higher, tie, lower: their "
            "verdicts. P(improvement): probability that a run of the arm is above "
            f"one of the reference on the same {kind}, with the interval of a bootstrap of the "
            f"runs.{f' {ON_OTHERS}' if ranked else ''}"
        ),
    )


def _mean_ap(collected: Collected) -> float | None:
    scores = [s.equal.arm(collected.reference).metrics["AP"] for s in collected.members.values()]
    means = [spread.mean for spread in scores if spread.mean is not None]
    return sum(means) / len(means) if means else None


def _improvement_text(each: OverDatasets) -> str:
    if each.improvement is None:
        return NOTHING
    mean, (low, high) = each.improvement.mean, each.improvement.interval
    return f"{mean:.0%} ({low:.0%} to {high:.0%})"


def _range_text(each: OverDatasets) -> str:
    if each.difference is None:
        return NOTHING
    return interval_text((min(each.difference.differences), max(each.difference.differences)))


def dataset_table(collected: Collected) -> Table:
    """Return the AP of every arm on every dataset, with the difference to the reference."""
    header = (collected.kind, *map(plain, collected.arms))
    rows = []
    for name, summary in collected.members.items():
        cells = []
        for arm in collected.arms:
            text = spread_text(summary.equal.arm(arm).metrics["AP"])
            verdict = summary.equal.verdict(arm)
            if verdict is not None and verdict.difference is not None:
                decided = f", {verdict.decision}" if is_decided(verdict) else ""
                text += f" ({signed(verdict.difference.mean, digits_of(verdict))}{decided})"
            cells.append(text)
        rows.append((plain(name), *cells))
    if len(collected.arms) > len(rows):  # a long table is easier to read than a wide one
        header, *rows = zip(header, *rows, strict=True)
        header = ("arm", *header[1:])
    return Table(
        name="by-dataset",
        header=header,
        rows=tuple(rows),
        caption=(
            "AP in percent: mean ± standard deviation between the seeds. In parentheses: the "
            f"difference to {plain(collected.reference)}, with a verdict if there is one."
        ),
    )


def data_table(collected: Collected) -> Table:
    """Return images and runs of every dataset."""
    rows = []
    for name, summary in collected.members.items():
        counts = [collected.train_images[name], collected.test_images[name]]
        rows.append(
            (
                plain(name),
                *(NOTHING if count is None else f"{count:,}" for count in counts),
                f"{summary.states['done']} of {len(summary.runs)}",
                str(summary.states["failed"]),
            )
        )
    return Table(
        name="data",
        header=(collected.kind, "training images", "test images", "runs done", "failed"),
        rows=tuple(rows),
    )


def rank_table(collected: Collected) -> Table | None:
    """Return the mean ranks; None without ranks."""
    if collected.ranks is None:
        return None
    return Table(
        name="ranks",
        header=("arm", "mean rank"),
        rows=tuple((plain(arm), f"{rank:.2f}") for arm, rank in collected.ranks.mean.items()),
    )


def rank_sentences(collected: Collected) -> list[str]:
    """Return what the ranks say, or why there are none."""
    ranks = collected.ranks
    if ranks is None:
        if collected.kind == "fold" or len(collected.members) < 2:
            return []
        return [f"Ranks of three or more arms are shown from {FEWEST_DATASETS} datasets on."]
    differ = (
        "so some arms differ"
        if ranks.friedman_p <= ALPHA
        else "so no difference between arms shows"
    )
    p = p_text(ranks.friedman_p)
    return [
        f"Friedman's test of equal ranks over {len(ranks.datasets)} datasets: p "
        f"{p if p.startswith('<') else f'= {p}'}, {differ}.",
        f"Two arms differ significantly if their mean ranks are {ranks.critical_difference:.2f} "
        "apart (Nemenyi).",
    ]


def standing_sentences(collected: Collected, found: Sequence[OverDatasets]) -> list[str]:
    """Return what limits the verdicts: unfinished, left-out and decisive datasets."""
    texts: list[str] = []
    for each in found:
        arm = plain(each.arm)
        if each.waiting:
            texts.append(
                f"{arm} has no verdict yet: {listed([plain(n) for n in each.waiting])} "
                f"{'has' if len(each.waiting) == 1 else 'have'} unfinished runs."
            )
        if each.left_out:
            texts.append(
                f"{listed([plain(n) for n in each.left_out])} {are(list(each.left_out))} left out "
                f"for {arm}: no seed finished with an AP in both arms."
            )
        for name, decision in each.without.items():
            texts.append(
                f"Without {plain(name)}, the verdict on {arm} would be {decision}, not "
                f"{each.decision}."
            )
    decided = [each for each in found if not each.waiting and each.p is not None]
    several = collected.kind == "dataset" and len(collected.members) > 2
    if several and decided and not any(each.without for each in found):
        texts.append("No verdict changes if any one dataset is left out.")
    return texts


def over_rows(collected: Collected) -> Iterable[list[Cell]]:
    """Yield one row per arm and setting."""
    yield [
        *("settings", "arm", "reference", "verdict", "difference", "error", "freedom"),
        *("low", "high", "p_t", "p_holm", "p_equivalent", "p_not_worse", "p_wilcoxon"),
        *("datasets", "above", "higher", "ties", "lower"),
        *("improvement", "improvement_low", "improvement_high"),
    ]
    for settings, found in (("equal", collected.equal), ("best", collected.best or ())):
        for each in found:
            d, better = each.difference, each.improvement
            numbers = [d.mean, d.error, d.freedom] if d else [None] * 3
            yield [
                *(settings, each.arm, collected.reference, each.decision, *numbers),
                *((d and d.interval) or (None, None)),
                *(d.t_p if d else None, each.p, each.p_equivalent, each.p_not_worse),
                *(each.signed_rank_p, len(each.datasets), each.positive),
                *(each.wins, each.ties, each.losses),
                *((better.mean, *better.interval) if better else (None,) * 3),
            ]


def dataset_rows(collected: Collected) -> Iterable[list[Cell]]:
    """Yield one row per dataset and arm."""
    yield ["dataset", "arm", "ap", "std", "n", "difference", "low", "high", "verdict"]
    for name, summary in collected.members.items():
        for scores in summary.equal.arms:
            spread, verdict = scores.metrics["AP"], summary.equal.verdict(scores.arm)
            d = verdict.difference if verdict else None
            yield [
                *(name, scores.arm, spread.mean, spread.std, spread.n),
                *(d.mean if d else None, *((d and d.interval) or (None, None))),
                verdict.decision if verdict else "reference",
            ]
