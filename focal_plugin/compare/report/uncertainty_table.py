"""Table of the sources of uncertainty of each difference."""

from __future__ import annotations

from collections.abc import Iterable

from ...pages.table import Table
from ...pages.text import NOTHING, interval_text, number_text, percent_text, plain, signed
from ..analysis.summary import Summary
from .csv_tables import Cell


def uncertainty_table(summary: Summary) -> Table | None:
    """Return seeds, images and both for every arm; None without a difference."""
    rows = [
        (
            plain(found.arm),
            interval_text(found.seeds),
            interval_text(found.bca),
            number_text(found.images, 2),
            interval_text(found.total),
            NOTHING if found.effect_size is None else signed(found.effect_size, 2),
            percent_text(found.improvement),
        )
        for found in summary.uncertainties
    ]
    if not rows:
        return None
    header = ("arm", "seeds, t", "seeds, BCa", "images, SE", "seeds and images")
    return Table(
        name="uncertainty",
        header=(*header, "effect size d_z", "P(improvement)"),
        rows=tuple(rows),
        caption=(
            "95% intervals of the difference in AP to the reference. Seeds: noise of training, by "
            "the t test of the verdict and by the BCa bootstrap, which is too narrow with few "
            "seeds. Images: standard error over resampled test images, without the noise of "
            "training. Seeds and images: how the arms may differ on other images, a cautious "
            "sum. d_z: mean difference divided by its standard deviation. P(improvement): share "
            "of pairs of runs in which the arm is above the reference."
            + ("" if any(found.images for found in summary.uncertainties) else f" {NO_IMAGES}")
        ),
    )


NO_IMAGES = f"{NOTHING}: the images were not resampled."


def uncertainty_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per arm."""
    ends = ("seeds_low", "seeds_high", "bca_low", "bca_high", "images_error")
    yield ["arm", *ends, "total_low", "total_high", "d_z", "probability_of_improvement"]
    for found in summary.uncertainties:
        seeds, bca, total = (pair or (None, None) for pair in (found.seeds, found.bca, found.total))
        yield [
            *(found.arm, *seeds, *bca, found.images, *total),
            *(found.effect_size, found.improvement),
        ]
