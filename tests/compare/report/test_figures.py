import re
import time
import xml.etree.ElementTree as ET
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest

from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.report import captions
from focal_plugin.compare.report.arm_styles import arm_styles
from focal_plugin.compare.report.figures import draw_all
from focal_plugin.pages import plotting
from focal_plugin.pages.plotting import (
    GRID,
    INK,
    MUTED,
    PALETTE,
    REST,
    inline_svg,
    pdf,
    png,
    svg,
)

from ..fake_comparison import FakeArm, write_comparison, write_metrics
from .conftest import FIGURES

pytestmark = pytest.mark.slow

TRUETYPE = plotting._STYLE["pdf.fonttype"]  # before the tests change it
ARMS = ("CE", "_$x^2$", "<b>&amp;")


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    arms = {name: FakeArm(0.4 + 0.2 * i) for i, name in enumerate(ARMS)}
    write_comparison(folder, arms, (1, 2, 3), snapshots=True)
    return summarize(folder, replicates=0)


@pytest.fixture(scope="module")
def drawings(summary):
    return {drawing.name: drawing for drawing in draw_all(summary)}


def test_every_measurement_has_a_figure(drawings):
    assert list(drawings) == [
        "forest",
        "ap-by-size",
        "ap-by-class",
        "difference-by-class",
        "error-types",
        "precision-recall",
        "confusion",
        "reliability",
        "training",
        "gradient-norms",
        "loss-cdf-retinanet",
        "gradient-histogram-retinanet",
        "cost",
    ]
    assert all(len(d.caption) > 100 and d.title for d in drawings.values())


def test_the_forest_plot_shows_seeds_mean_and_interval(summary, drawings):
    axes = drawings["forest"].figure.axes[0]
    lines = [line for line in axes.lines if line.get_color() != INK]
    found = sorted(summary.equal.verdicts, key=lambda v: v.difference.mean)
    for row, verdict in enumerate(found):
        seeds, interval, mean = lines[3 * row : 3 * row + 3]
        np.testing.assert_allclose(seeds.get_xdata(), verdict.difference.differences)
        np.testing.assert_allclose(interval.get_xdata(), verdict.difference.interval)
        np.testing.assert_allclose(interval.get_ydata(), row)
        assert mean.get_xdata() == pytest.approx(verdict.difference.mean)
        assert mean.get_markerfacecolor() != mean.get_color()  # hollow: undecided
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [verdict.arm for verdict in found]


def test_an_arm_has_one_color_in_all_figures(summary, drawings):
    styles = arm_styles(summary.arms, summary.reference, list(summary.shown))
    assert [styles[arm].color for arm in ARMS] == [INK, *PALETTE[:2]]
    allowed = {INK, *PALETTE[:2]}
    for name, drawing in drawings.items():
        for legend in drawing.figure.legends:
            shown = dict(
                zip(
                    [text.get_text() for text in legend.get_texts()],
                    [handle.get_color() for handle in legend.legend_handles],
                    strict=True,
                )
            )
            assert shown == {arm: styles[arm].color for arm in ARMS}, name
        drawn = {line.get_color() for axes in drawing.figure.axes for line in axes.lines}
        assert drawn - allowed <= {GRID, MUTED}, name


def test_the_most_different_of_many_arms_are_colored_and_the_others_gray():
    arms = tuple(f"arm {i}" for i in range(50))
    shown = ["arm 7", *[f"arm {i}" for i in range(49, 40, -1)]]
    styles = arm_styles(arms, "arm 7", shown)
    colored = [arm for arm in arms if styles[arm].colored]
    assert len(colored) == 9
    assert set(colored) == set(shown[:9])
    assert styles["arm 0"].color == REST
    assert len({styles[arm].color for arm in colored}) == 9


def test_fifty_arms_make_figures_of_a_readable_size(summary):
    names = tuple(f"arm number {i}" for i in range(50))
    many, dots = _with_arms(summary, names), ("ap-by-size", "ap-by-class", "error-types")
    drawings = {drawing.name: drawing for drawing in draw_all(many)}
    styles = arm_styles(names, names[0], list(names))
    for name, drawing in drawings.items():
        width, height = drawing.figure.get_size_inches()
        assert (width, height < 20) == (7.6, True), name
        for legend in drawing.figure.legends:
            texts = [text.get_text() for text in legend.get_texts()]
            assert len(texts) <= 10
            assert (texts[-1] == "41 more") == (name not in dots)
            for text, handle in zip(texts, legend.legend_handles, strict=True):
                color = REST if text == "41 more" else styles[text].color
                assert handle.get_color() == color, text
    assert len(drawings["cost"].figure.axes[0].get_yticklabels()) == 50


def test_training_curves_have_a_band_between_the_seeds(summary, drawings):
    axes = next(
        a for a in drawings["training"].figure.axes if a.get_title(loc="left") == "total_loss"
    )
    curve = summary.curves["CE"]["total_loss"]
    (line,) = [line for line in axes.lines if line.get_color() == INK]
    np.testing.assert_allclose(line.get_ydata(), curve.mean)
    corners = axes.collections[-3].get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(min(curve.low))
    assert corners[:, 1].max() == pytest.approx(max(curve.high))


def test_losses_on_fixed_images_are_markers_beside_the_training_losses(tmp_path, draw_only):
    comparison = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()})
    for run in comparison.runs:
        losses = {"validation/total": 2.0 * run.seed, "validation/cls": 50.0}
        lines = [
            {"iteration": 19, "total_loss": 3.0, "loss_cls": 1.0, "loss_box_reg": 1.0, **losses},
            {"iteration": 40, "validation/total": 1.0},
        ]
        write_metrics(tmp_path / run.id, lines)
    draw_only("training")
    summary = summarize(tmp_path, replicates=0)
    (drawing,) = draw_all(summary)
    assert drawing.title == "Losses during training, on training images and on fixed test images"
    assert drawing.caption.endswith(f"{captions.TRAINING}{captions.VALIDATION}")
    axes = {a.get_title(loc="left"): a for a in drawing.figure.axes if a.axison}
    assert list(axes) == ["total_loss", "loss_box_reg", "loss_cls"]
    _, (training, fixed) = (
        [line for line in axes["total_loss"].lines if line.get_color() == color]
        for color in (PALETTE[0], INK)
    )
    assert training.get_marker() == "None"
    np.testing.assert_array_equal(training.get_xydata(), [(19, 3.0)])
    np.testing.assert_array_equal(fixed.get_xydata(), [(19, 3.0), (40, 1.0)])
    assert fixed.get_marker() == arm_styles(("CE", "FL"), "CE", ["FL"])["CE"].marker
    assert len(axes["loss_box_reg"].lines) == 2  # no losses on fixed images
    assert axes["loss_cls"].get_yscale() == "log"  # 1 and 50 are far apart


def test_training_curves_alone_do_not_speak_of_fixed_images(drawings):
    assert drawings["training"].title == "Losses during training"
    assert captions.VALIDATION not in drawings["training"].caption


def test_an_inlined_figure_has_the_colors_and_the_font_of_the_page(drawings):
    assert len(drawings) == len(FIGURES) - 1  # no run was evaluated during training
    for name, drawing in drawings.items():
        text = inline_svg(svg(drawing.figure), name=name, title=drawing.title)
        assert "var(--ink)" in text
        assert re.findall(r"#[0-9a-f]{6}", text) == [], name
        assert "DejaVu" not in text
        root = ET.fromstring(text)
        assert root.get("role") == "img"
        assert root[0].text == drawing.title
        assert "metadata" not in text
        background = root.find(f".//*[@id='{name}-patch_1']")
        assert background[0].get("style") == "fill: none"


def test_two_figures_on_a_page_share_no_id(drawings):
    seen = set()
    for name in ("training", "precision-recall"):
        root = ET.fromstring(inline_svg(svg(drawings[name].figure), name=name, title="x"))
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        assert seen.isdisjoint(ids)
        seen.update(ids)
        text = ET.tostring(root, encoding="unicode")
        used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
        assert used
        assert {a or b for a, b in used} <= set(ids)


def test_names_in_a_figure_are_text_and_no_formulas(drawings):
    root = ET.fromstring(svg(drawings["forest"].figure))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"_$x^2$", "<b>&amp;"} <= set(texts)


def test_a_figure_is_the_same_however_often_it_is_rendered(drawings):
    figure = drawings["training"].figure
    first = svg(figure)
    png(figure, dpi=50)
    assert svg(figure) == first


def test_a_pdf_is_reproducible_and_has_truetype_fonts(drawings, monkeypatch):
    monkeypatch.setitem(plotting._STYLE, "pdf.fonttype", TRUETYPE)
    figure = drawings["forest"].figure
    first = pdf(figure)
    monkeypatch.setattr(time, "time", lambda: 4e9)  # a date would differ
    assert pdf(figure) == first
    assert first.startswith(b"%PDF-")
    assert b"/Subtype /Type0" in first  # how matplotlib embeds TrueType, as Type 42
    assert b"/FontFile2" in first
    assert b"/Type3" not in first
    assert not re.search(rb"/(CreationDate|ModDate)", first)


def test_a_figure_does_not_depend_on_the_settings_of_the_user(summary, drawings, draw_only):
    draw_only("precision-recall")
    expected = png(drawings["precision-recall"].figure, dpi=50)
    with mpl.rc_context({"font.size": 20, "legend.handlelength": 9, "axes.grid": False}):
        (again,) = draw_all(summary)
        assert png(again.figure, dpi=50) == expected
        assert mpl.rcParams["font.size"] == 20  # the settings are restored


def test_a_missing_measurement_has_no_figure(tmp_path):
    missing = FakeArm(without={1: "missing"})
    write_comparison(tmp_path, {"CE": missing, "FL": missing}, (1,))
    assert draw_all(summarize(tmp_path, replicates=0)) == []


def _with_arms(summary, names):
    """Repeat the numbers of the arms under new names."""
    own = summary.arms

    def of(i):
        return own[0] if i == 0 else own[1 + i % (len(own) - 1)]

    standing = summary.equal
    equal = replace(
        standing,
        arms=tuple(replace(standing.arm(of(i)), arm=n) for i, n in enumerate(names)),
        verdicts=tuple(replace(standing.verdict(of(i)), arm=n) for i, n in enumerate(names) if i),
    )
    views = [
        replace(view, arm=n)
        for i, n in enumerate(names)
        for view in summary.losses.views
        if view.arm == of(i)
    ]
    differences, decisions = summary.class_differences, summary.detections.decisions
    return replace(
        summary,
        arms=names,
        shown=names,
        reference=names[0],
        equal=equal,
        detections=replace(
            summary.detections,
            arms={n: summary.detections.arms[of(i)] for i, n in enumerate(names)},
            decisions=replace(
                decisions, arms={n: decisions.arms[of(i)] for i, n in enumerate(names)}
            ),
        ),
        class_differences=replace(
            differences,
            classes={n: differences.classes[of(i)] for i, n in enumerate(names)},
            by_group={n: differences.by_group[of(i)] for i, n in enumerate(names)},
        ),
        curves={n: summary.curves[of(i)] for i, n in enumerate(names)},
        costs={n: summary.costs[of(i)] for i, n in enumerate(names)},
        losses=replace(summary.losses, views=tuple(views)),
    )
