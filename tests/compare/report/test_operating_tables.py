import csv
import io
import json
from dataclasses import replace

import pytest

from focal_plugin.compare.analysis.decisions import OF_CLASSES, QUANTITIES
from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.report import operating_figures
from focal_plugin.compare.report.arm_styles import arm_styles
from focal_plugin.compare.report.cells import compared_text, difference_text
from focal_plugin.compare.report.csv_tables import csv_text
from focal_plugin.compare.report.json_content import json_content
from focal_plugin.compare.report.operating_figures import draw_confusion, draw_reliability
from focal_plugin.compare.report.operating_tables import (
    calibration_tables,
    class_decision_rows,
    confusion_rows,
    confusion_table,
    decision_rows,
    lrp_tables,
    operating_lead,
    operating_tables,
    reliability_rows,
    threshold_table,
)
from focal_plugin.compare.report.sections import CHAPTERS, contents
from focal_plugin.pages.plotting import style
from focal_plugin.pages.text import NOTHING

from ..fake_comparison import FakeArm, write_comparison

ARMS = {"CE": FakeArm(0.4), "FL": FakeArm(0.8), "empty": FakeArm(without={1: "empty", 2: "empty"})}


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operating")
    write_comparison(folder, ARMS, (1, 2))
    return summarize(folder, replicates=0)


@pytest.fixture
def quantities(summary):
    return {arm: a.quantities for arm, a in summary.detections.decisions.arms.items()}


def rows_of(rows):
    return list(csv.DictReader(io.StringIO(csv_text(rows))))


def test_each_quantity_has_its_mean_and_its_difference(summary, quantities):
    means, differences = operating_tables(summary)
    assert means.header[:4] == ("arm", "precision", "recall", "F1")
    assert "false positives per empty image" not in means.header  # there is no such image
    assert means.rows[1][3] == compared_text(quantities["FL"]["f1"])
    assert [row[0] for row in differences.rows] == ["FL", "empty"]
    assert differences.rows[0][3] == difference_text(quantities["FL"]["f1"])
    assert means.rows[1][5] == compared_text(quantities["FL"]["threshold"], 2)
    assert means.rows[2][3] == "0.0 ± 0.0"


def test_the_captions_name_the_cut_off_and_the_bins(summary):
    for tables in (calibration_tables(summary), lrp_tables(summary)):
        assert len(tables) == 2
    caption = calibration_tables(summary)[0].caption
    assert "score of at least .05, in 25 bins" in caption
    assert calibration_tables(summary)[0].header[1:] == ("D-ECE", "LaECE0", "score minus precision")


def test_the_lead_says_how_many_images_are_empty(summary):
    assert "No test image is without objects" in operating_lead(summary)
    found = replace(summary.detections.decisions, empty_images=3)
    some = replace(summary, detections=replace(summary.detections, decisions=found))
    assert "3 of 8 test images have no object." in operating_lead(some)


def test_the_lead_names_arms_whose_classes_have_poor_thresholds(summary):
    def lead(costs):
        found = summary.detections.decisions
        arms = {}
        for arm, cost in costs.items():
            own = found.arms[arm].quantities
            f1 = replace(own["f1"], mean=own["f1_one_threshold"].mean - cost)
            arms[arm] = replace(found.arms[arm], quantities={**own, "f1": f1})
        found = replace(found, arms=arms)
        return operating_lead(
            replace(summary, detections=replace(summary.detections, decisions=found))
        )

    assert "cost F1" not in lead({"CE": -2.0, "FL": 4.9})
    assert "cost F1: FL 30. A class" in lead({"CE": 0.0, "FL": 30.0})


def test_classes_have_their_f1_at_their_threshold(summary):
    table = threshold_table(summary)
    of_class = summary.detections.decisions.arms["FL"].classes[0]
    text = f"{compared_text(of_class['f1'])} at {of_class['threshold'].mean:.2f}"
    assert table.rows[0] == ("common", "8", table.rows[0][2], text, f"0.0 ± 0.0 at {NOTHING}")


def test_the_most_frequent_confusions_come_first(summary):
    table = confusion_table(summary)
    assert table.rows[0][1] == "missed"
    assert table.rows[0][4].startswith("8.0, +")  # a run without detections misses all
    names = [row[:2] for row in table.rows]
    assert all(true != predicted for true, predicted in names)


def test_the_csv_files_have_every_number(summary, quantities):
    rows = rows_of(decision_rows(summary))
    assert len(rows) == 3 * len(QUANTITIES)
    (row,) = [r for r in rows if (r["arm"], r["quantity"]) == ("FL", "olrp")]
    assert float(row["mean"]) == quantities["FL"]["olrp"].mean
    assert float(row["difference"]) == quantities["FL"]["olrp"].difference
    assert row["unit"] == "percent"
    assert len(rows_of(class_decision_rows(summary))) == 3 * 3 * len(OF_CLASSES)
    cells = rows_of(confusion_rows(summary))
    missed = [
        float(r["mean"]) for r in cells if (r["arm"], r["detected_as"]) == ("empty", "missed")
    ]
    assert missed == [8, 8, 8]
    bins = rows_of(reliability_rows(summary))
    assert [len([r for r in bins if r["arm"] == arm]) for arm in ARMS] == [25, 25, 25]
    assert sum(float(r["share"]) for r in bins if r["arm"] == "FL") == pytest.approx(1)


def test_the_numbers_are_part_of_the_json(summary, quantities):
    content = json.loads(json.dumps(json_content(summary), allow_nan=False))
    found = content["detections"]["decisions"]["arms"]["FL"]["quantities"]["laece0"]
    assert found["mean"] == quantities["FL"]["laece0"].mean
    assert found["interval"] == list(quantities["FL"]["laece0"].interval)


def test_the_chapter_has_its_sections(summary):
    names = [c.section.name for c in contents(summary) if c.section.chapter == "operating"]
    assert names == ["operating-points", "thresholds", "confusion", "calibration", "olrp"]
    assert list(CHAPTERS).index("operating") == list(CHAPTERS).index("sources") + 1


def test_a_row_of_the_matrix_adds_up_to_all_objects(summary):
    with style():
        drawing = draw_confusion(summary)
    panels = [axes for axes in drawing.figure.axes if axes.get_title(loc="left")]
    assert panels[0].get_title(loc="left") == "CE"
    labels = [text.get_text() for text in panels[0].get_yticklabels()]
    assert labels == ["common", "middling", "rare", "background"]
    for axes in panels[1:]:  # the lowest panel of each column
        labels = [text.get_text() for text in axes.get_xticklabels()]
        assert labels == ["common", "middling", "rare", "missed"]
    (empty,) = [axes for axes in panels if axes.get_title(loc="left") == "empty"]
    texts = [(t.get_position(), t.get_text()) for t in empty.texts]
    assert texts == [((3, row), "100") for row in range(3)]


def test_the_diagram_leaves_out_bins_with_few_detections(summary, monkeypatch):
    styles = arm_styles(summary.arms, summary.reference, list(summary.shown))
    for fewest, drawn in ((10_000, False), (1, True)):
        monkeypatch.setattr(operating_figures, "FEWEST_IN_BIN", fewest)
        with style():
            drawing = draw_reliability(summary, styles)
        lines = drawing.figure.axes[0].lines[1:]  # the first is the diagonal
        assert any(len(line.get_xdata()) for line in lines) == drawn


def test_without_runs_there_is_nothing(tmp_path):
    missing = FakeArm(without={1: "missing"})
    write_comparison(tmp_path, {"CE": missing, "FL": missing}, (1,))
    summary = summarize(tmp_path, replicates=0)
    assert (operating_lead(summary), operating_tables(summary)) == ("", [])
    assert threshold_table(summary) is confusion_table(summary) is draw_confusion(summary) is None
    for rows in (decision_rows, class_decision_rows, confusion_rows, reliability_rows):
        assert rows_of(rows(summary)) == []
