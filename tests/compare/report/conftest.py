"""Low resolution for figures, because drawing takes most of the time of a report."""

import pytest

from focal_plugin.compare.report import figures
from focal_plugin.pages import plotting

FIGURES = {
    "forest": "_forest",
    "ap-by-size": "_by_size",
    "ap-by-class": "_by_class",
    "difference-by-class": "draw_class_differences",
    "error-types": "_error_types",
    "precision-recall": "_precision_recall",
    "confusion": "draw_confusion",
    "reliability": "draw_reliability",
    "ap-over-training": "draw_progress",
    "training": "draw_training",
    "gradient-norms": "draw_gradient_norms",
    "loss-cdf": "draw_cumulative_loss",
    "gradient-histogram": "draw_gradient_histogram",
    "cost": "_cost",
}
"""Name of a figure -> function that draws it."""


@pytest.fixture(scope="session", autouse=True)
def coarse_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plotting._STYLE, "pdf.fonttype", 3)  # subsets of fonts take most of the time
        patch.setitem(plotting.png.__kwdefaults__, "dpi", 36)
        yield


@pytest.fixture
def draw_only(monkeypatch):
    """Provide a function that turns off all figures but one."""

    def leave_out(name):
        for function in FIGURES.keys() - {name}:
            monkeypatch.setattr(figures, FIGURES[function], lambda *args: None)

    return leave_out
