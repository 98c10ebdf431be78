"""Command `focal-compare judge`."""

import csv
import gc
import hashlib
import json
import re
from pathlib import Path

import pytest

import focal_plugin_commands as commands
from focal_plugin.compare.analysis import evaluate_files
from focal_plugin.compare.analysis.detections.average_precision import Evaluation
from focal_plugin.compare.analysis.judged_files import JudgedFiles, summarize_files
from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.judge_command import parse_arms
from focal_plugin.compare.report import write
from focal_plugin.compare.report.sections import contents
from focal_plugin.compare.runs.result import AVERAGES

from .analysis.detections.coco_cases import pycocotools_averages
from .fake_comparison import FakeArm, fake_detections, write_comparison, write_ground_truth

SKILLS = {"A": 0.5, "B": 0.9}
CHAPTERS = [
    *("Verdict", "Certainty", "Sources of the differences"),
    *("Operating points and calibration", "Provenance", "How to report this"),
]
GONE = ("iteration", "learning rate", "restarts", "Detectron2's eval", "Not finished", "No run")
"""Words of the chapters that result files cannot fill."""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Provide the ground truth, and three files of each arm, in the current folder."""
    monkeypatch.chdir(tmp_path)
    truth = write_ground_truth(tmp_path / "data")
    for arm, skill in SKILLS.items():
        for seed in (1, 2, 3):
            entries = fake_detections(truth, skill, seed)
            (tmp_path / f"{arm.lower()}{seed}.json").write_text(json.dumps(entries))
    return truth


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the figures, which take most of the time of a report."""
    monkeypatch.setattr(write, "draw_all", lambda summary: [])


def judge(*arguments, replicates=4):
    truth = "data/annotations.json"
    return commands.focal_compare(["judge", truth, *arguments, "--replicates", str(replicates)])


ARMS = ("--arm", "A=a1.json,a2.json,a3.json", "--arm", "B=b1.json,b2.json,b3.json")


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_detections_of_any_framework_have_the_whole_report(data, tmp_path, capsys):
    assert judge(*ARMS, "--images", "data/images", "--output", "out/ab", "--title", "A or B") == 0
    said = capsys.readouterr()
    assert "B is" in said.out
    assert "The report: out/ab/report.html" in said.out
    assert said.err == ""
    out = tmp_path / "out" / "ab"
    page = re.sub(r"(?s)<style>.*?</style>|data:[^\"]*|<svg.*?</svg>", "", _text(out, "html"))
    markdown = _text(out, "md")
    for text in (page, markdown):
        for part in ("A or B", "Verdict", "Error types", "Judged files", "Classes", "Datasets"):
            assert part in text
        for part in GONE:
            assert part not in text, part
    assert re.findall(r"<h2>(.*?)</h2>", page) == CHAPTERS
    assert re.findall(r"(?m)^## (.*)$", markdown) == CHAPTERS
    assert "Images on which the arms differ most" in page
    assert "(out" not in markdown
    content = json.loads(_text(out, "json"))
    assert not content.keys() & {"runs", "curves", "costs", "losses", "fairness", "tuning", "best"}
    names = {path.name for path in (out / "tables").iterdir()}
    assert {"files.csv", "arms.csv", "differences.csv", "per_class.csv"} <= names
    assert not names & {"runs.csv", "curves.csv", "configs.csv", "loss_audit.csv", "test_sets.csv"}
    quantities = {row["quantity"] for row in rows_of(out / "tables" / "arms.csv")}
    assert quantities == {*AVERAGES, "AR"}
    figures = {path.name for path in (out / "figures").iterdir()}
    assert {"forest.png", "ap-by-class.png", "error-types.png", "images.png"} <= figures
    assert not figures & {"training.png", "cost.png"}


def _text(folder, suffix):
    return (folder / f"report.{suffix}").read_text(encoding="utf-8")


def judged(**more):
    files = {arm: tuple(Path(f"{arm.lower()}{s}.json") for s in (1, 2, 3)) for arm in SKILLS}
    fields = {"name": "x", "ground_truth": Path("data/annotations.json"), "arms": files}
    return JudgedFiles(**{**fields, "reference": "A", **more})


def test_every_average_of_every_file_is_that_of_pycocotools(data, tmp_path):
    summary = summarize_files(judged(), replicates=0)
    truth = json.loads((tmp_path / "data" / "annotations.json").read_text())
    for arm in SKILLS:
        for seed in (1, 2, 3):
            file = tmp_path / f"{arm.lower()}{seed}.json"
            expected = pycocotools_averages(truth, json.loads(file.read_text()))
            for metric in AVERAGES:
                value = summary.equal.arm(arm).metrics[metric].by_seed[seed]
                if isinstance(value, str):
                    assert value == "no ground truth"
                    assert expected[metric] != expected[metric]
                else:
                    assert value == pytest.approx(100 * expected[metric], abs=1e-10)
            (row,) = [f for f in summary.files if (f.arm, f.seed) == (arm, seed)]
            assert row.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
            assert row.detections == 24
            assert row.ap == pytest.approx(100 * expected["AP"])


def test_files_are_judged_as_the_runs_that_left_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seeds = (1, 2, 3, 4, 5, 6)
    comparison = write_comparison(tmp_path, {"A": FakeArm(0.5), "B": FakeArm(0.9)}, seeds=seeds)
    of_runs = summarize(tmp_path, replicates=20)
    file = "inference/coco_instances_results.json"
    arms = {
        arm: tuple(tmp_path / r.id / file for r in comparison.runs if r.arm == arm)
        for arm in comparison.arms
    }
    of_files = summarize_files(
        judged(ground_truth=tmp_path / "data" / "annotations.json", arms=arms), replicates=20
    )
    assert of_files.equal.verdicts == of_runs.equal.verdicts
    assert of_files.equal.verdict("B").decision == "higher"
    assert of_files.recommendations == of_runs.recommendations
    for arm in comparison.arms:
        mine, theirs = (s.detections.arms[arm] for s in (of_files, of_runs))
        for part in ("recall", "curves", "errors", "error_counts", "images"):
            assert getattr(mine, part) == getattr(theirs, part), part
    for summary, parts in ((of_files, {"files"}), (of_runs, {"runs", "fairness", "costs"})):
        names = {content.section.name for content in contents(summary)}
        assert names & {"files", "runs", "fairness", "costs"} == parts


def test_a_file_without_detections_has_an_ap_of_0(data, undrawn, tmp_path, capsys):
    for seed in (1, 2):
        (tmp_path / f"none{seed}.json").write_text("[]")
    arms = ("--arm", "A=a1.json,a2.json", "--arm", "none=none1.json,none2.json")
    assert judge(*arms) == 0
    assert "Runs that detected nothing count as an AP of 0: 2 of 2 of none" in (
        capsys.readouterr().out
    )


def test_arms_with_different_numbers_of_files_are_compared_in_pairs(
    data, undrawn, tmp_path, capsys
):
    assert judge("--arm", "A=a1.json,a2.json,a3.json", "--arm", "B=b1.json,b2.json") == 0
    told = "B has 2 files and A has 3, so the first 2 pairs are compared."
    assert told in capsys.readouterr().err
    assert told in _text(tmp_path / "judged", "md")
    (row,) = rows_of(tmp_path / "judged" / "tables" / "differences.csv")
    assert row["seeds"] == "2"


def test_another_reference_turns_the_difference_around(data):
    first, second = (summarize_files(judged(reference=arm), replicates=0) for arm in "AB")
    assert first.equal.verdict("B").difference.mean == pytest.approx(
        -second.equal.verdict("A").difference.mean
    )


@pytest.mark.parametrize("letters", ["rcf", "frf", "rcx"])
def test_the_groups_are_those_of_lvis_if_the_ground_truth_has_them(
    data, tmp_path, undrawn, letters
):
    file = tmp_path / "data/annotations.json"
    truth = json.loads(file.read_text())
    for category, letter in zip(truth["categories"], letters, strict=True):
        category["frequency"] = letter
    file.write_text(json.dumps(truth))
    assert judge(*ARMS, "--output", "out") == 0
    rows = rows_of(tmp_path / "out/tables/part_differences.csv")
    found = {(r["part"], r["arm"]): r for r in rows if r["counted"]}
    names = {"r": "APr", "c": "APc", "f": "APf"}
    expected = {} if "x" in letters else {names[a]: letters.count(a) for a in letters}
    assert {part for part, _ in found} == set(expected)
    by_class = {
        r["class"]: float(r["mean"])
        for r in rows_of(tmp_path / "out/tables/class_differences.csv")
        if r["arm"] == "B"
    }
    for part, count in expected.items():
        members = [
            by_class[category["name"]]
            for category in truth["categories"]
            if names[category["frequency"]] == part
        ]
        row = found[part, "B"]
        assert row["counted"] == "frequency in the ground truth"
        assert (int(row["classes"]), row["fewest"], row["most"]) == (count, "", "")
        assert float(row["mean"]) == pytest.approx(sum(members) / count)
    said = "The ground truth states the groups, as in LVIS."
    assert (said in (tmp_path / "out/report.md").read_text()) == bool(expected)


def test_one_file_is_in_memory_at_a_time(data, monkeypatch):
    alive, measure = [], evaluate_files.run_numbers

    def count(evaluation, **options):
        gc.collect()
        alive.append(sum(isinstance(o, Evaluation) for o in gc.get_objects()))
        return measure(evaluation, **options)

    monkeypatch.setattr(evaluate_files, "run_numbers", count)
    summarize_files(judged(), replicates=0)
    assert alive == [1] * 6


GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (["A=a1.json"], "there must be at least two arms to compare, got 1"),
        (["A=a1.json", "A=a2.json"], "--arm 'A' is given twice"),
        (["A=a1.json", "a1.json"], "--arm must be NAME=FILE"),
        (["A=a1.json", "B="], "--arm must be NAME=FILE"),
        (["A=a1.json", "B=b1.json,"], "--arm must be NAME=FILE"),
        (["A=a1.json", "=b1.json"], "--arm must be NAME=FILE"),
        (["A=a1.json", "B=b9.json,b8.json"], "no such file: b9.json, b8.json"),
        (["A=a1.json,a1.json", "B=b1.json"], "a1.json and a1.json are equal"),
        (["A=a1.json", "B=data/annotations.json"], "annotations.json: must be a list of detect"),
        (["A=a1.json", "B=bad.json"], "bad.json: detection 1: "),
        (["A=a1.json", "B=cut.json"], "cut.json: not valid JSON"),
        (["A=a1.json", "B=b1.json", "--reference", "C"], "the reference 'C' is no arm; the arms a"),
        (["A=a1.json", "B=b1.json", "--images", "none"], "no such folder of images: none"),
        (["A=a1.json", "B=b1.json", "--output", "a1.json"], "a1.json is a file, not a folder"),
        (["A=a1.json", "B=b1.json", "--replicates", "1"], "--replicates must be 0, or at least 2"),
    ],
)
def test_a_mistake_names_file_and_entry_and_writes_nothing(data, tmp_path, capsys, arms, message):
    (tmp_path / "bad.json").write_text(json.dumps([GOOD, {**GOOD, "score": float("nan")}]))
    (tmp_path / "cut.json").write_text(json.dumps([GOOD])[:-3])
    before = sorted(tmp_path.rglob("*"))
    names = [arm for arm in arms if "=" in arm or arm == "a1.json"]
    options = arms[next((i for i, arm in enumerate(arms) if arm.startswith("--")), len(arms)) :]
    given = [part for arm in names if arm not in options for part in ("--arm", arm)]
    truth = "data/annotations.json"
    assert commands.focal_compare(["judge", truth, *given, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "image_id 99 is not in the ground truth"),
        ({"category_id": 0}, "category_id 0 is not in the ground truth"),
        ({"bbox": [1, 2, -3, 4]}, "bbox must be 4 finite numbers"),
    ],
)
def test_an_entry_of_other_data_is_named(data, tmp_path, capsys, change, message):
    (tmp_path / "bad.json").write_text(json.dumps([GOOD, GOOD, {**GOOD, **change}]))
    assert judge("--arm", "A=a1.json", "--arm", "B=bad.json") == 2
    assert f"bad.json: detection 2: {message}" in capsys.readouterr().err
    assert not (tmp_path / "judged").exists()


def test_a_ground_truth_without_objects_has_no_ap(data, tmp_path, capsys):
    file = tmp_path / "data" / "annotations.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    assert judge("--arm", "A=a1.json", "--arm", "B=b1.json") == 2
    assert "annotations.json: no object is annotated" in capsys.readouterr().err


def test_a_report_never_replaces_that_of_a_comparison(data, tmp_path, capsys):
    write_comparison(tmp_path / "runs", {"A": FakeArm(), "B": FakeArm()}, seeds=(1,))
    assert judge("--arm", "A=a1.json", "--arm", "B=b1.json", "--output", "runs") == 2
    assert "holds a comparison with a report of its own" in capsys.readouterr().err


def test_a_federated_ground_truth_is_said_to_be_one(data, undrawn, tmp_path):
    file = tmp_path / "data" / "annotations.json"
    content = json.loads(file.read_text())
    content["images"][0]["neg_category_ids"] = [2]
    for image in content["images"]:
        name = image.pop("file_name")
        image["coco_url"] = f"http://images.cocodataset.org/images/{name}"
    file.write_text(json.dumps(content))
    assert judge("--arm", "A=a1.json", "--arm", "B=b1.json", "--images", "data") == 0
    assert "annotations.json annotates only some classes on each image" in _text(
        tmp_path / "judged", "md"
    )
    assert (tmp_path / "judged" / "figures" / "images.png").exists()  # found by `coco_url`


def test_a_name_may_hold_anything_but_an_equals_sign():
    assert [*parse_arms(["a b,c=x=1.json , y.json"]).items()] == [
        ("a b,c", tuple(map(Path, ("x=1.json", "y.json"))))
    ]


def test_the_help_teaches_the_format(capsys):
    with pytest.raises(SystemExit):
        commands.focal_compare(["judge", "--help"])
    text = capsys.readouterr().out
    for part in ('"image_id": 42', "file i of", "--reference B"):
        assert part.lower() in text.lower()
