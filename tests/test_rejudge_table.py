"""A published table is judged again only if its numbers come from the given files."""

import json

import pytest

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.report import write

from .compare.fake_comparison import fake_detections, write_ground_truth
from .tools import load_tool

tool = load_tool("rejudge_table")


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Provide a function: published numbers of two rows -> file of the table."""
    monkeypatch.setattr(write, "draw_all", lambda summary: [])
    data = write_ground_truth(tmp_path / "data")
    for name, skill, seed in (("a", 0.5, 1), ("b1", 0.9, 1), ("b2", 0.9, 2)):
        (tmp_path / f"{name}.json").write_text(json.dumps(fake_detections(data, skill, seed)))

    def write_table(a, b, **more):
        rows = {"A": {"files": ["a.json"], **a}, "B": {"files": ["b1.json", "b2.json"], **b}}
        content = {"ground_truth": "data/annotations.json", "rows": rows, **more}
        file = tmp_path / "table.yaml"
        file.write_text(json.dumps(content))
        return file

    return write_table


@pytest.fixture
def measured(table, tmp_path):
    """Provide AP and AP50 of each file, percent."""
    truth = tmp_path / "data" / "annotations.json"
    found = {
        name: evaluate(truth, tmp_path / f"{name}.json").average_precision().averages
        for name in ("a", "b1", "b2")
    }
    return {name: {m: 100 * v for m, v in averages.items()} for name, averages in found.items()}


def published(measured):
    a, b1, b2 = measured.values()
    numbers = [{m: a[m] for m in ("AP", "AP50")}, {"AP": (b1["AP"] + b2["AP"]) / 2}]
    return [{metric: round(value, 1) for metric, value in row.items()} for row in numbers]


def rejudge(file, tmp_path, *more):
    arguments = [file, "--output", tmp_path / "out", "--replicates", 4, *more]
    return tool.main([*map(str, arguments)])


def test_a_table_whose_numbers_are_those_of_its_files_is_judged(table, measured, tmp_path, capsys):
    assert rejudge(table(*published(measured), reference="B"), tmp_path) == 0
    said = capsys.readouterr().out
    assert said.count("yes") == 3
    assert "A is" in said
    assert "# table" in (tmp_path / "out" / "report.md").read_text()


def test_a_number_that_does_not_reproduce_leaves_no_report(table, measured, tmp_path, capsys):
    a, b = published(measured)
    file = table(a, {"AP": b["AP"] + 0.2})
    assert rejudge(file, tmp_path) == 1
    said = capsys.readouterr()
    assert said.out.count("yes") == 2
    assert said.out.count("NO") == 1
    assert "does not reproduce" in said.err
    assert not (tmp_path / "out").exists()
    assert rejudge(file, tmp_path, "--anyway") == 1
    assert (tmp_path / "out" / "report.html").exists()
    assert rejudge(table(a, {"AP": b["AP"] + 0.2}, tolerance=0.3), tmp_path) == 0


@pytest.mark.parametrize(
    ("row", "more", "message"),
    [
        ({}, {}, "B: has no published AP"),
        ({"AP": "many"}, {}, "B: AP must be one of AP, AP50"),
        ({"AP": 1, "mAP": 2}, {}, "B: mAP must be one of AP, AP50"),
        ({"AP": 1, "files": []}, {}, "B: must be {files: "),
        ({"AP": 1, "files": ["none.json"]}, {}, "no such file: "),
        ({"AP": 1}, {"reference": "C"}, "the reference 'C' is no arm"),
        ({"AP": 1}, {"tolerance": -1}, "tolerance must be a number >= 0"),
        ({"AP": 1}, {"row": {}}, "no key is named 'row'"),
        ({"AP": 1}, {"ground_truth": None}, "ground_truth must name"),
    ],
)
def test_a_table_of_another_form_is_an_error(table, tmp_path, capsys, row, more, message):
    assert rejudge(table({"AP": 1}, row, **more), tmp_path) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
