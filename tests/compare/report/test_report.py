import argparse
import csv
import io
import json
import os
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

import focal_plugin_commands as commands
from focal_plugin.compare import report_command
from focal_plugin.compare.analysis.scores import NO_PREDICTIONS, Spread
from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.plan.comparison import Comparison
from focal_plugin.compare.plan.setting import Setting
from focal_plugin.compare.report import write as report
from focal_plugin.compare.report.cells import spread_text
from focal_plugin.compare.report.csv_tables import csv_text
from focal_plugin.compare.report.json_content import json_content
from focal_plugin.compare.report.markdown import markdown_text
from focal_plugin.compare.report.sections import contents
from focal_plugin.compare.report.terminal import terminal_report
from focal_plugin.compare.report.write import ReportFiles, write_report
from focal_plugin.compare.runs.result import AVERAGES
from focal_plugin.pages.drawing import Drawing
from focal_plugin.pages.text import NOTHING, plain, signed

from ..fake_comparison import FakeArm, change_result, folder_of, write_comparison

HOSTILE = ("<script>alert(1)</script>", "../../x", "=1+1", "_$x^$", "|a](javascript:1)`")
HOSTILE_CLASSES = ("<img src=x onerror=alert(1)>", "=cmd()", "a\x1b[31m\nb")


class Page(HTMLParser):
    """Parser that sees a page like a browser."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.styles = [], [], [], []
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._in_style = tag == "style"

    def handle_data(self, data):
        (self.styles if self._in_style else self.text).append(data)

    def handle_endtag(self, tag):
        self._in_style = False

    def values(self, name):
        return [value for _, key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> ReportFiles:
    """Report of a comparison with malicious names and a run in each state."""
    folder = tmp_path_factory.mktemp("hostile") / "runs"
    arms = {name: FakeArm(0.5 + 0.1 * i) for i, name in enumerate(HOSTILE)}
    arms["=1+1"] = FakeArm(without={1: "failed"})
    arms["_$x^$"] = FakeArm(without={1: "empty"}, config="MODEL: {X: '=2+2'}")
    write_comparison(folder, arms, classes=HOSTILE_CLASSES, snapshots=True)
    return write_report(folder, replicates=5)


@pytest.fixture(scope="module")
def page(hostile) -> Page:
    return Page(hostile.html.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_names_on_the_page_are_text(page):
    assert {"script", "iframe", "object", "link", "form", "base"}.isdisjoint(page.tags)
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    text = "".join(page.text)
    for name in (*HOSTILE, *HOSTILE_CLASSES[:2]):
        assert name in text
    assert "\x1b" not in text
    # also in a figure, as part of an SVG
    assert page.tags.count("svg") >= 9
    assert text.count("<script>alert(1)</script>") > 20


@pytest.mark.slow
def test_the_page_loads_no_other_files(page):
    (policy,) = [
        v for tag, key, v in page.attributes if (tag, key) == ("meta", "content") and "src" in v
    ]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src"))
    links = [*page.values("href"), *page.values("xlink:href")]
    assert links
    assert all(link.startswith("#") for link in links)
    style = "".join([*page.styles, *page.values("style")])
    assert "@import" not in style
    assert set(re.findall(r"url\((.)", style)) <= {"#"}


@pytest.mark.slow
def test_ids_are_unique_and_references_are_valid(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = [v[1:] for v in (*page.values("href"), *page.values("xlink:href"))]
    wanted += re.findall(r"url\(#([^)]+)\)", " ".join(v for _, _, v in page.attributes))
    wanted += page.values("aria-labelledby")
    assert set(wanted) <= set(ids)


@pytest.mark.slow
def test_every_picture_has_a_description(page):
    figures = [(tag, dict_) for tag, dict_ in _elements(page) if tag in ("svg", "img")]
    assert len(figures) > 20
    for tag, attributes in figures:
        if tag == "img":
            assert attributes["alt"].startswith("Image ")
        else:
            assert attributes["role"] == "img"
            assert attributes["aria-labelledby"]


@pytest.mark.slow
def test_no_name_escapes_from_the_folder(hostile):
    folder = hostile.html.parent
    written = [p for p in folder.parent.rglob("*") if p.is_file()]
    assert all(folder in p.resolve().parents for p in written)
    assert {p.name for p in folder.parent.iterdir()} == {"runs"}
    assert all(re.fullmatch(r"[a-z0-9-]+\.(png|svg|pdf)", p.name) for p in hostile.figures)


@pytest.mark.slow
def test_no_cell_of_a_csv_is_a_formula_and_numbers_stay_numbers(hostile):
    for file in hostile.tables:
        rows = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"))))
        assert len({len(row) for row in rows}) == 1, file
        for cell in (cell for row in rows for cell in row):
            assert not cell.startswith(("=", "@", "\t", "\r", "+")), (file, cell)
            if cell.startswith("-"):
                float(cell)
    runs = list(csv.DictReader((hostile.html.parent / "tables/runs.csv").open(encoding="utf-8")))
    assert [row["arm"] for row in runs].count("'=1+1") == 2
    assert float(runs[0]["AP"]) > 0
    (empty,) = [row for row in runs if row["AP"] == NO_PREDICTIONS]
    assert empty["state"] == "done"


def test_text_gets_a_quote_and_a_negative_number_does_not():
    rows = [["-1", -1.5, "+2", "@x", "\ty", None, "a=b", -3]]
    assert csv_text(rows) == "'-1,-1.5,'+2,'@x,'\ty,,a=b,-3\n"


@pytest.mark.slow
def test_names_in_markdown_are_text(hostile):
    text = hostile.markdown.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text
    assert "](javascript" not in re.sub(r"\\.", "", text)
    assert markdown_text("a|b[c](d)`*<\n") == r"a\|b\[c\](d)\`\*&lt; "
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [len(re.sub(r"\\.", "", row).split("|")) for row in rows]
    assert min(cells) > 3


@pytest.mark.slow
def test_json_is_strict_and_lists_the_files(hostile):
    def refuse(token):
        raise AssertionError(token)

    text = hostile.json.read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=refuse)
    folder = hostile.html.parent
    assert all((folder / name).is_file() for name in content["files"])
    assert content["runs"][2]["reason"] == "Loss became infinite"


@pytest.mark.slow
def test_all_formats_report_failed_and_missing_runs(hostile, page):
    for text in (
        "".join(page.text),
        hostile.markdown.read_text(encoding="utf-8"),
        terminal_report(hostile.summary),
    ):
        assert "Loss became infinite" in text
        assert "1 run failed; with an AP of 0 instead" in text


@pytest.mark.slow
def test_the_same_runs_make_the_same_bytes(hostile):
    files = (hostile.html, hostile.markdown, hostile.json, *hostile.tables, *hostile.figures)
    before = {file: file.read_bytes() for file in files}
    again = write_report(hostile.html.parent, replicates=5)
    assert again.figures == hostile.figures
    for file, content in before.items():
        assert file.read_bytes() == content, file


@pytest.mark.slow
def test_an_interrupted_report_leaves_the_old_one(hostile, monkeypatch):
    folder = hostile.html.parent
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(report, "draw_all", lambda summary: [])
    with pytest.raises(OSError, match="No space"):
        write_report(folder, replicates=6)  # differs from the previous report
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_an_outdated_figure_is_removed(tmp_path, monkeypatch):
    write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()})
    drawings = [Drawing(name, "title", "caption", Figure((1, 1))) for name in ("forest", "loss")]
    monkeypatch.setattr(report, "draw_all", lambda summary: drawings)
    first = write_report(tmp_path, replicates=0)
    (tmp_path / "figures" / "mine.png").write_bytes(b"")
    content = json.loads(first.json.read_text())
    content["files"] += ["../data/annotations.json", "figures/../data/annotations.json"]
    first.json.write_text(json.dumps(content))
    drawings.pop()
    write_report(tmp_path, replicates=0)
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == [
        "forest.pdf",
        "forest.png",
        "forest.svg",
        "mine.png",
    ]
    assert (tmp_path / "data" / "annotations.json").exists()


def test_a_comparison_without_finished_runs_has_a_report(tmp_path):
    missing = FakeArm(without={1: "missing", 2: "missing"})
    write_comparison(tmp_path, {"CE": missing, "FL": missing})
    files = write_report(tmp_path)
    text = "".join(Page(files.html.read_text(encoding="utf-8")).text)
    assert "Not finished." in text
    assert "No run is done." in text
    assert files.figures == ()
    assert "4 of 4 runs not done" in terminal_report(files.summary)


def test_every_test_set_has_its_own_numbers(tmp_path, draw_only):
    draw_only("forest")
    runs = write_comparison(tmp_path, {"CE": FakeArm(0.9), "FL": FakeArm(0.5)})
    for run in runs.runs:
        folder = tmp_path / run.id
        environment = json.loads((folder / "env.json").read_text())
        data = environment["datasets"]["test"][0]
        environment["datasets"]["test"] = [data, {**data, "name": "night"}]
        (folder / "env.json").write_text(json.dumps(environment))
        (folder / "inference/fake_val").mkdir()
        detections = folder / "inference/coco_instances_results.json"
        detections.rename(folder / "inference/fake_val" / detections.name)
        ap = {"CE": 30.0, "FL": 34.0}[run.arm] + run.seed
        night = {**dict.fromkeys(AVERAGES), "AP": ap}
        change_result(folder, ap_of_others={"night": night})
    files = write_report(tmp_path, replicates=0)
    (section,) = [c for c in contents(files.summary) if c.section.name == "test-sets"]
    (table,) = section.tables
    assert table.header == ("arm", "fake_val", "difference", "night", "difference")
    assert [row[3:] for row in table.rows] == [("31.5 ± 0.7", NOTHING), ("35.5 ± 0.7", "+4.0")]
    assert table.rows[0][1] == spread_text(files.summary.equal.arm("CE").metrics["AP"])
    assert files.summary.detections.images == 8  # detections of the first test set were found
    assert "Images on which the arms differ most" in files.html.read_text(encoding="utf-8")
    rows = (tmp_path / "tables/test_sets.csv").read_text().splitlines()
    assert rows[1].startswith("fake_val,CE,AP,")
    assert any(row.startswith("night,CE,AP,31.5,") for row in rows)


def test_both_learning_rates_have_their_verdicts(tmp_path, draw_only):
    draw_only("forest")
    arms = {"CE": FakeArm(0.9), "FL": FakeArm(0.5)}
    write_comparison(
        tmp_path, arms, factors=(0.5, 1.0, 2.0), best={"CE": Setting(2.0), "FL": Setting(2.0)}
    )
    files = write_report(tmp_path, replicates=0)
    text = "".join(Page(files.html.read_text(encoding="utf-8")).text)
    for said in (
        "At the same learning rate",
        "At each arm's best learning rate",
        "720 iterations",
    ):
        assert said in text
    assert {"forest.svg", "forest-best.svg"} <= {p.name for p in files.figures}
    assert "lr 0.02 (x 2, at the edge of the grid)" in text
    assert "At each arm's best learning rate:" in terminal_report(files.summary)


def test_a_state_is_never_shown_as_a_number():
    assert spread_text(Spread.of({1: NO_PREDICTIONS})) == "no predictions"
    mixed = Spread.of({1: 10.0, 2: 12.0, 3: NO_PREDICTIONS})
    assert spread_text(mixed) == "11.0 ± 1.4 (1 of 3: no predictions)"
    assert [signed(v) for v in (-1.25, 0.04, -0.04, 2.0)] == ["\u22121.2", "0.0", "0.0", "+2.0"]
    assert plain("a\x1b[31m\n\tb") == "a\ufffd[31m b"


@pytest.mark.parametrize(
    ("strict", "state", "code"),
    [
        (True, "failed", 3),
        (True, "missing", 3),
        (False, "failed", 0),
        (True, None, 0),
    ],
)
def test_strict_requires_all_runs(tmp_path, capsys, monkeypatch, strict, state, code):
    monkeypatch.setattr(report, "draw_all", lambda summary: [])
    write_comparison(
        tmp_path, {"CE": FakeArm(), "FL": FakeArm(without={2: state} if state else {})}
    )
    arguments = ["report", str(tmp_path), "--replicates", "0", *["--strict"] * strict]
    assert commands.focal_compare(arguments) == code
    out, err = capsys.readouterr()
    assert "undecided" in out
    assert ("1 of 4 runs are not done" in err) == (code == 3)


def test_one_replicate_is_refused(tmp_path):
    Comparison("x", ("CE",), "CE", (1,), ()).write(tmp_path)
    args = argparse.Namespace(runs=tmp_path, strict=False, replicates=1, reference=None)
    with pytest.raises(ValueError, match="at least 2"):
        report_command.main(args)


@pytest.mark.slow
def test_another_reference_changes_the_report_and_not_the_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "draw_all", lambda summary: [])
    arms = {"CE": FakeArm(0.5), "FL": FakeArm(0.9), "X": FakeArm(0.3)}
    write_comparison(tmp_path, arms, (1, 2))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    arguments = ["report", str(tmp_path), "--replicates", "0"]
    assert commands.focal_compare([*arguments, "--reference", "FL"]) == 0
    said = capsys.readouterr().out
    assert "FL is best so far: CE comes closest" in said
    assert "The plan compares with CE. FL was chosen as the reference of this report" in said
    assert all(path.read_bytes() == content for path, content in before.items())
    page = (tmp_path / "report.html").read_text()
    assert "The plan compares with CE." in page
    assert json.loads((tmp_path / "report.json").read_text())["reference"] == "FL"
    found = summarize(tmp_path, replicates=0, reference="FL")
    own = summarize(tmp_path, replicates=0)
    (there,) = [v.difference for v in found.equal.verdicts if v.arm == "CE"]
    (back,) = [v.difference for v in own.equal.verdicts if v.arm == "FL"]
    assert there.differences == tuple(-d for d in back.differences)
    assert commands.focal_compare(arguments) == 0
    assert "The plan compares" not in capsys.readouterr().out


def test_a_reference_that_is_no_arm_is_refused(tmp_path, capsys):
    write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()}, (1,))
    assert commands.focal_compare(["report", str(tmp_path), "--reference", "FLL"]) == 2
    assert "--reference 'FLL' is not an arm" in capsys.readouterr().err


def test_the_audit_of_the_plan_stays_with_another_reference(tmp_path):
    made = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()}, (1,))
    sentence = {"severity": "red", "topic": "anchors", "text": "No anchor fits."}
    content = {"sentences": [sentence], "config_hash": made.runs[0].config_hash}
    (tmp_path / "audit.json").write_text(json.dumps(content))
    assert summarize(tmp_path, replicates=0, reference="FL").red == ("No anchor fits.",)


def _elements(page):
    """Return (tag, attributes) of all tags with attributes."""
    elements, last = [], None
    for tag, name, value in page.attributes:
        if last is None or tag != last[0] or name in last[1]:
            last = (tag, {})
            elements.append(last)
        last[1][name] = value
    return elements


def test_a_report_over_damaged_files_names_each_with_its_run(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm(0.8)}, snapshots=True)
    damaged = {
        ("CE", 1): ("env.json", b"\xff"),
        ("CE", 2): ("config.yaml", b"["),
        ("FL", 1): ("inference/coco_instances_results.json", b'[{"image_id": 1'),
        ("FL", 2): ("metrics.json", b'{"iteration": 19, "total_loss": 1.0}\n[]\n'),
    }
    for (arm, seed), (name, content) in damaged.items():
        (folder_of(tmp_path, comparison, arm, seed) / name).write_bytes(content)
    summary = summarize(tmp_path, replicates=0)
    assert summary.complete
    said = terminal_report(summary).splitlines()
    for (arm, seed), (name, _) in damaged.items():
        file = folder_of(tmp_path, comparison, arm, seed) / name
        (line,) = [line for line in said if str(file) in line]
        assert line.startswith(f"{arm} seed {seed}")
    assert len(json_content(summary)["problems"]) == 3
    assert "FL seed 1 could not be evaluated" in json_content(summary)["detections"]["problems"][-1]


def test_a_run_with_a_damaged_result_has_failed_in_the_report(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm(0.8)})
    file = folder_of(tmp_path, comparison, "FL", 2) / "result.json"
    file.write_text(file.read_text()[:40])
    summary = summarize(tmp_path, replicates=0)
    assert summary.states == {"pending": 0, "running": 0, "done": 3, "failed": 1}
    assert f"failed: FL seed 2: {file} is damaged" in terminal_report(summary)


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"null", b"{", b"[" * 100_000, b'{"name": 1}', b'{"runs": [1]}', None]
)
def test_a_damaged_plan_is_one_line_with_its_name(tmp_path, capsys, content):
    file = tmp_path / "comparison.json"
    file.mkdir() if content is None else file.write_bytes(content)
    assert commands.focal_compare(["report", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"focal-compare: {file} is damaged: ")
    assert "Delete it" in line
