import csv
import io

import pytest

from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.report import shown_classes
from focal_plugin.compare.report.arm_styles import arm_styles
from focal_plugin.compare.report.cells import compared_text, difference_text
from focal_plugin.compare.report.class_figures import draw_class_differences
from focal_plugin.compare.report.class_tables import (
    class_difference_rows,
    class_difference_table,
    difference_tables,
    group_table,
    part_difference_rows,
    secondary_lead,
    size_difference_table,
)
from focal_plugin.compare.report.csv_tables import csv_text
from focal_plugin.pages.plotting import style
from focal_plugin.pages.text import NOTHING

from ..fake_comparison import FakeArm, write_comparison

ARMS = {"CE": FakeArm(0.4), "FL": FakeArm(0.8), "GHM": FakeArm(0.6)}


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    write_comparison(folder, ARMS, (1, 2, 3, 4, 5, 6))
    return summarize(folder, replicates=0)


def rows_of(rows):
    return list(csv.DictReader(io.StringIO(csv_text(rows))))


def test_each_class_shows_its_difference_interval_and_adjusted_p(summary):
    table = class_difference_table(summary)
    assert table.header == ("class", "objects, training", "FL", "GHM")
    assert [row[:2] for row in table.rows] == [("common", "90"), ("middling", "20"), ("rare", "3")]
    tested = summary.class_differences.classes["FL"][0]
    assert table.rows[0][2].startswith(difference_text(tested))
    assert ", p " in table.rows[0][2]
    assert "Holm over 6 tests" in table.caption
    assert "secondary" in secondary_lead(summary)


def test_groups_and_sizes_have_a_table(summary):
    groups, sizes = group_table(summary), size_difference_table(summary)
    assert groups.header == (
        "arm",
        *("APr (rare)", "difference", "APc (common)", "difference"),
        *("APf (frequent)", "difference"),
    )
    assert [row[0] for row in groups.rows] == ["CE", "FL", "GHM"]
    assert groups.rows[0][2::2] == (NOTHING,) * 3
    assert groups.rows[1][1] == compared_text(summary.class_differences.by_group["FL"][0])
    assert "1 rare, with 3; 1 common, with 20; 1 frequent, with 90 objects." in groups.caption
    assert sizes.header == ("arm", "APs", "AR")  # no object is larger
    assert [row[0] for row in sizes.rows] == ["FL", "GHM"]


def test_the_csv_has_the_numbers_of_the_tables(summary):
    rows = rows_of(class_difference_rows(summary))
    assert len(rows) == 9
    (row,) = [r for r in rows if (r["class"], r["arm"]) == ("rare", "FL")]
    tested = summary.class_differences.classes["FL"][2]
    assert float(row["difference"]) == tested.difference
    assert (float(row["low"]), float(row["high"])) == tested.interval
    assert float(row["p_holm"]) == tested.p
    assert (row["train_objects"], row["train_images"]) == ("3", "3")
    parts = rows_of(part_difference_rows(summary))
    assert list(dict.fromkeys(r["part"] for r in parts)) == [
        *("APr", "APc", "APf"),
        *("APs", "APm", "APl", "AR"),
    ]
    assert parts[0]["counted"] == "training objects"


def test_of_many_classes_the_ends_are_shown(summary, monkeypatch):
    monkeypatch.setattr(shown_classes, "MOST_CLASSES", 2)
    table = class_difference_table(summary)
    assert [row[0] for row in table.rows] == ["common", "rare"]
    assert "Of 3 classes" in table.caption
    assert "class_differences.csv has all." in table.caption


def test_the_figure_shows_each_class_at_its_frequency(summary):
    styles = arm_styles(summary.arms, summary.reference, list(summary.shown))
    with style():
        drawing = draw_class_differences(summary, styles)
    panels = [axes for axes in drawing.figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == ["FL", "GHM"]
    tested = summary.class_differences.classes["FL"]
    points = [line for line in panels[0].lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == [90, 20, 3]
    assert [line.get_ydata()[0] for line in points] == [c.difference for c in tested]
    assert panels[0].get_xscale() == "log"
    for line, of_class in zip(points, tested, strict=True):
        filled = line.get_markerfacecolor() == line.get_color()
        assert filled == (of_class.p <= 0.05)


def test_one_arm_and_no_run_have_no_differences(tmp_path):
    write_comparison(tmp_path / "one", {"CE": FakeArm()}, (1,))
    one = summarize(tmp_path / "one", replicates=0)
    missing = FakeArm(without={1: "missing"})
    write_comparison(tmp_path / "none", {"CE": missing, "FL": missing}, (1,))
    none = summarize(tmp_path / "none", replicates=0)
    for summary in (one, none):
        assert difference_tables(summary) == []
        assert secondary_lead(summary) == ""
        styles = arm_styles(summary.arms, summary.reference, list(summary.shown))
        assert draw_class_differences(summary, styles) is None
    assert rows_of(class_difference_rows(none)) == []
