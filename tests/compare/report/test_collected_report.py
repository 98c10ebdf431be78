"""Tests of the report over several datasets or folds."""

import csv
import json
import re

import pytest

from focal_plugin.compare.plan.setting import Setting
from focal_plugin.compare.report.report_all import report_all

from ..fake_comparison import FakeArm, light_reports, write_collection

NAMES = ("cells", "b & c", "<b>x</b>", "a_b", "$x^2$")


def arms(shift=0.0):
    return {"CE": FakeArm(0.4), "FL": FakeArm(0.8 - shift), "OHEM": FakeArm(0.5 + shift)}


@pytest.fixture(scope="module", autouse=True)
def light():
    with pytest.MonkeyPatch.context() as patch:
        light_reports(patch)
        yield


@pytest.fixture(scope="module")
def reported(light, tmp_path_factory):
    folder = tmp_path_factory.mktemp("collected")
    members = {name: arms(0.02 * i) for i, name in enumerate(NAMES)}
    write_collection(folder, members, seeds=(1, 2))
    return folder, report_all(folder, replicates=2)


def rows(file):
    with file.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_files_of_a_report_are_written(reported):
    folder, found = reported
    assert found.html == folder / "report.html"
    for name in ("report.md", "report.json", "report.tex", "tables/over-datasets.tex"):
        assert (folder / name).stat().st_size > 100
    for name in ("forest-datasets", "ranks"):
        for suffix in ("png", "svg", "pdf"):
            assert (folder / f"figures/{name}.{suffix}").stat().st_size > 1000
    assert len(found.summaries) == len(NAMES)


def test_the_numbers_are_the_means_over_the_datasets(reported):
    folder, found = reported
    (fl, _) = rows(folder / "tables/over_datasets.csv")
    by_dataset = [r for r in rows(folder / "tables/by_dataset.csv") if r["arm"] == "FL"]
    assert [row["dataset"] for row in by_dataset] == list(NAMES)
    means = [float(row["difference"]) for row in by_dataset]
    assert float(fl["difference"]) == pytest.approx(sum(means) / len(means))
    assert fl["verdict"] == "higher"
    ap = [s.equal.arm("FL").metrics["AP"].mean for s in found.summaries.values()]
    assert [float(row["ap"]) for row in by_dataset] == pytest.approx(ap)


def test_names_are_text_and_every_report_is_linked(reported):
    folder, _ = reported
    page = (folder / "report.html").read_text()
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    links = re.findall(r'<a href="([^"#]+/report\.html)">', page)
    assert len(links) == len(NAMES)
    assert all((folder / link).is_file() for link in links)
    text = (folder / "report.md").read_text()
    assert all((folder / link).is_file() for link in re.findall(r"\]\(([^)]+/report\.md)\)", text))
    assert "$x^2$" not in (folder / "report.tex").read_text()


def test_ranks_are_shown_from_five_datasets_on(reported, tmp_path):
    folder, _ = reported
    content = json.loads((folder / "report.json").read_text())
    assert next(iter(content["ranks"]["mean"])) == "FL"
    assert "Friedman" in (folder / "report.md").read_text()
    write_collection(tmp_path, {name: arms() for name in NAMES[:2]}, seeds=(1, 2))
    report_all(tmp_path, replicates=0)
    text = (tmp_path / "report.md").read_text()
    assert "Ranks of three or more arms are shown from 5 datasets on." in text
    assert not (tmp_path / "figures/ranks.png").exists()


def test_the_same_runs_make_the_same_bytes(reported):
    folder, _ = reported
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and "pdf" not in f.suffix]
    before = {file: file.read_bytes() for file in files}
    report_all(folder, replicates=2)
    assert {file: file.read_bytes() for file in files} == before


def test_folds_have_no_ranks_and_their_own_words(tmp_path):
    members = {f"fold-{i}": arms(0.02 * i) for i in range(1, 6)}
    write_collection(tmp_path, members, kind="fold", seeds=(1,))
    found = report_all(tmp_path, replicates=0)
    assert "on average over 5 folds." in found.terminal
    text = (tmp_path / "report.md").read_text()
    assert "Nadeau and Bengio" in text
    assert "Friedman" not in text
    assert "Wilcoxon" not in text
    assert "the 5 folds of a cross-validation" in text
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["ranks"] is None
    error, std = (content["equal"][0]["difference"][key] for key in ("error", "std"))
    assert error == pytest.approx(std * (1 / 5 + 8 / 8) ** 0.5)  # 8 images in both recorded sets


def test_an_unfinished_dataset_and_a_lost_one_are_named(tmp_path):
    waiting = {**arms(), "FL": FakeArm(0.8, {2: "running"})}
    lost = {**arms(), "OHEM": FakeArm(0.5, {1: "failed", 2: "failed"})}
    write_collection(tmp_path, {"a": arms(), "b": waiting, "c": lost}, seeds=(1, 2))
    report_all(tmp_path, replicates=0)
    text = (tmp_path / "report.md").read_text()
    assert "FL has no verdict yet: b has unfinished runs." in text
    assert "c is left out for OHEM: no seed finished with an AP in both arms." in text
    assert re.search(r"OHEM \([^)]* AP, on 2 of 3\)", text)
    assert "without c, where it left no AP" in text


def test_tuned_arms_have_a_verdict_at_their_best_setting(tmp_path):
    members = {"a": arms(), "b": arms()}
    write_collection(
        tmp_path,
        members,
        seeds=(1, 2),
        factors=(1.0, 2.0),
        best=dict.fromkeys(arms(), Setting(2.0)),
    )
    report_all(tmp_path, replicates=0)
    content = json.loads((tmp_path / "report.json").read_text())
    assert [each["arm"] for each in content["best"]] == ["FL", "OHEM"]
    text = (tmp_path / "report.md").read_text()
    assert "At each arm's best setting" in text
    assert (tmp_path / "figures/forest-datasets-best.png").exists()


def test_plans_with_other_arms_are_refused(tmp_path):
    write_collection(tmp_path, {"a": arms(), "b": {"CE": FakeArm(), "GHM": FakeArm()}})
    with pytest.raises(ValueError, match="the comparison on b has other arms than the first"):
        report_all(tmp_path, replicates=0)
