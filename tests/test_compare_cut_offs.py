"""Numbers of runs at several score cut-offs."""

import json

import pytest

from .compare.analysis.detections.coco_cases import pycocotools_averages
from .compare.fake_comparison import FakeArm, write_comparison
from .tools import load_tool

tool = load_tool("compare_cut_offs")


@pytest.fixture
def comparison(tmp_path):
    return write_comparison(tmp_path, {"CE": FakeArm(0.4), "FL": FakeArm(0.9)}, seeds=(1,))


def test_every_cut_off_has_the_numbers_of_pycocotools(tmp_path, comparison):
    truth = json.loads((tmp_path / "data" / "annotations.json").read_text())
    table = tool.cut_off_table(tmp_path, [0.001, 0.75])
    for run, rows in zip(comparison.runs, (table.rows[:2], table.rows[2:]), strict=True):
        file = tmp_path / run.id / "inference" / "coco_instances_results.json"
        found = json.loads(file.read_text())
        for cut_off, row in zip((0.001, 0.75), rows, strict=True):
            kept = [d for d in found if d["score"] > cut_off]
            expected = pycocotools_averages(truth, kept)
            numbers = [f"{100 * expected[metric]:.1f}" for metric in ("AP", "AR", "AP50")]
            assert row[:6] == (run.arm, f"{cut_off:g}", str(len(kept)), *numbers)
    missed = [int(row[-1]) for row in table.rows]
    assert missed[0] < missed[1]


def test_the_table_goes_into_a_page(tmp_path, comparison, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- cut-offs: tools/compare_cut_offs.py -->\n<!-- end of cut-offs -->\n")
    tool.main([str(tmp_path), "--page", str(page)])
    assert page.read_text().count("| CE ") == 2
    tool.main([str(tmp_path)])
    assert "missed objects" in capsys.readouterr().out
