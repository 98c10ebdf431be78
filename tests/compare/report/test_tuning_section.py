"""Tests of the words, tables and rows on the tuning of learning rates and loss weights."""

import csv
import json

import pytest

from focal_plugin.compare.analysis.provenance import OF_TRIALS
from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.plan.setting import EQUAL, Setting
from focal_plugin.compare.report.csv_tables import run_rows
from focal_plugin.compare.report.headline import headlines
from focal_plugin.compare.report.how_to_report import how_to_report
from focal_plugin.compare.report.tables import data_table, run_table, verdict_table
from focal_plugin.compare.report.tuning_section import (
    best_text,
    tuning_rows,
    tuning_sentence,
    tuning_table,
)
from focal_plugin.compare.report.write import write_report
from focal_plugin.compare.runs.run_folder import read_run_folders
from focal_plugin.pages.text import NOTHING

from ..fake_comparison import FakeArm, change_result, write_comparison

RATES, WEIGHTS = (0.5, 1.0, 2.0), (1.0, 4.0)


def tuned(folder, values, *, best=None, arms=("CE", "FL"), **axes):
    """Write a comparison; ``values`` has the AP of a pair of factors, 1 more for each seed."""
    comparison = write_comparison(folder, {arm: FakeArm() for arm in arms}, best=best, **axes)
    for run in comparison.of_role("tuning"):
        ap = values.get((run.setting.lr_factor, run.setting.weight_factor))
        if ap is None:
            (folder / run.id / "result.json").unlink()
        else:
            change_result(folder / run.id, ap={"AP": ap + run.seed - 102})
    return comparison


def test_learning_rates_have_a_column_each_and_an_arm_one_row(tmp_path):
    tuned(tmp_path, {(0.5, 1): 10, (2, 1): 12}, factors=RATES)
    table = tuning_table(summarize(tmp_path, replicates=0))
    assert table.header == ("arm", "lr x 0.5", "lr x 1", "lr x 2", "best")
    row = ("10.0 ± 1.0", NOTHING, "12.0 ± 1.0", "lr 0.02 (x 2, at the edge of the grid)")
    assert table.rows == (("CE", *row), ("FL", *row))
    assert "the seeds 101, 102 and 103, which no other run has" in table.caption
    assert (
        "The trials trained on 32 images and were evaluated on 8 others, a split of the training"
        in table.caption
    )
    assert "They take 720 iterations" in table.caption  # 2 arms, 3 seeds, 3 settings, 40 each
    assert "If the best learning rate is at the edge" in table.caption


def test_loss_weights_have_a_column_each(tmp_path):
    tuned(tmp_path, {(1, 1): 12, (1, 4): 11}, weights=(0.5, 1.0, 4.0), arms=["CE"])
    table = tuning_table(summarize(tmp_path, replicates=0))
    assert table.header == ("arm", "weight x 0.5", "weight x 1", "weight x 4", "best")
    assert table.rows == (("CE", NOTHING, "12.0 ± 1.0", "11.0 ± 1.0", "weight 2 (x 1)"),)


def test_of_both_an_arm_has_a_row_for_each_weight_and_names_its_best_pair_once(tmp_path):
    values = {(1, 1): 10, (2, 1): 12, (1, 4): 13, (2, 4): 11}
    tuned(tmp_path, values, factors=RATES, weights=WEIGHTS, arms=["CE"])
    table = tuning_table(summarize(tmp_path, replicates=0))
    assert table.header == ("arm", "weight", "lr x 0.5", "lr x 1", "lr x 2", "best")
    best = "lr 0.01 (x 1), weight 8 (x 4, at the edge of the grid)"
    assert table.rows == (
        ("CE", "x 1", NOTHING, "10.0 ± 1.0", "12.0 ± 1.0", ""),
        ("CE", "x 4", NOTHING, "13.0 ± 1.0", "11.0 ± 1.0", best),
    )


def test_an_arm_without_finished_trials_has_no_best_setting(tmp_path):
    tuned(tmp_path, {}, factors=RATES, weights=WEIGHTS, arms=["CE"])
    summary = summarize(tmp_path, replicates=0)
    assert [row[-1] for row in tuning_table(summary).rows] == [NOTHING, ""]
    assert best_text(summary.tuning.arms["CE"], summary.tuning.grid) == NOTHING


def test_without_a_started_trial_the_number_of_images_is_not_told(tmp_path):
    comparison = tuned(tmp_path, {}, factors=RATES)
    for folder in read_run_folders(comparison, tmp_path):
        (folder.path / "env.json").unlink()
    caption = tuning_table(summarize(tmp_path, replicates=0)).caption
    assert "The trials use a split of the training set." in caption


@pytest.mark.parametrize(
    ("axes", "equal", "best"),
    [
        ({"factors": RATES}, "At the same learning rate: ", "best learning rate: "),
        ({"weights": WEIGHTS}, "With loss weights as configured: ", "best loss weight: "),
        (
            {"factors": RATES, "weights": WEIGHTS},
            "With learning rates and loss weights as configured: ",
            "best learning rate and loss weight: ",
        ),
    ],
    ids=["rates", "weights", "both"],
)
def test_headline_titles_and_paragraph_say_what_was_tuned(tmp_path, draw_only, axes, equal, best):
    draw_only("forest")
    tuned(tmp_path, {(1, 1): 12}, **axes)
    files = write_report(tmp_path, replicates=0)
    first, second = headlines(files.summary)
    assert first.startswith(equal)
    assert second.startswith(f"At each arm's {best}")
    text = files.markdown.read_text(encoding="utf-8")
    for title in (equal[:-2], f"At each arm's {best[:-2]}", f"Tuning of the {best[5:-2]}"):
        assert f"\n### {title}\n" in text
    assert f"At each arm's {best[:-2]}, against it: FL" in how_to_report(files.summary)
    latex = (tmp_path / "tables/tuning.tex").read_text(encoding="utf-8")
    assert f"Tuning of the {best[5:-2]}" in latex
    named = json.loads(files.json.read_text(encoding="utf-8"))["tuning"]["arms"]["FL"]
    assert named["best"] == {"lr_factor": 1.0, "weight_factor": 1.0}


def test_the_verdicts_at_the_best_settings_name_them_in_numbers(tmp_path):
    best = dict.fromkeys(("CE", "FL"), Setting(2.0, 4.0))
    tuned(tmp_path, {(2, 4): 12}, factors=RATES, weights=WEIGHTS, best=best)
    summary = summarize(tmp_path, replicates=0)
    table = verdict_table(summary, summary.best)
    assert table.header[:4] == ("arm", "lr", "weight", "AP")
    assert [row[:3] for row in table.rows] == [("CE", "0.02", "8"), ("FL", "0.02", "8")]
    assert verdict_table(summary, summary.equal).header[:2] == ("arm", "AP")


def test_an_undecided_setting_has_no_numbers(tmp_path):
    tuned(tmp_path, {(2, 1): 12}, factors=RATES)  # the runs at factor 2 are not planned
    summary = summarize(tmp_path, replicates=0)
    assert [row[1] for row in verdict_table(summary, summary.best).rows] == [NOTHING, NOTHING]


def test_a_paper_gets_the_factors_the_data_and_the_choice(tmp_path):
    tuned(tmp_path, {(1, 1): 12}, factors=RATES, weights=WEIGHTS, arms=["CE"])
    assert tuning_sentence(summarize(tmp_path, replicates=0)) == (
        "Each arm tried 0.5, 1 and 2 times its learning rate, and 1 and 4 times its loss weight, "
        "with 3 seeds. The trials trained on 32 images and were evaluated on 8 others, a split of "
        "the training set. Chosen were CE: lr 0.01 (x 1), weight 2 (x 1, at the edge of the grid)."
    )


def test_the_rows_for_programs_have_every_setting(tmp_path):
    values = {(1, 1): 10, (2, 1): 12, (2, 4): 11}
    tuned(tmp_path, values, factors=RATES, weights=WEIGHTS, arms=["CE"])
    header, *rows = tuning_rows(summarize(tmp_path, replicates=0))
    assert len(rows) == 6
    best = dict(zip(header, rows[2], strict=True))
    assert best == {
        "arm": "CE",
        **{"lr_factor": 2.0, "weight_factor": 1.0, "mean": 12.0, "std": 1.0, "best": "True"},
        **{"best_base_lr": 0.02, "best_weight": 2.0},
        **{"lr_at_edge": "True", "weight_at_edge": "True"},
    }
    assert rows[0] == ["CE", 0.5, 1.0, None, None, "False", None, None, None, None]


def test_trials_are_marked_wherever_runs_and_datasets_are_listed(tmp_path, draw_only):
    draw_only("forest")
    comparison = tuned(tmp_path, {(1, 1): 12, (2, 1): 11}, factors=(1.0, 2.0), arms=["CE"])
    summary = summarize(tmp_path, replicates=0)
    table = run_table(summary)
    assert table.header[:4] == ("arm", "for", "setting", "seed")
    assert [row[:4] for row in table.rows[1:4]] == [
        ("CE", "", "", "2"),
        ("CE", "trial", "", "101"),
        ("CE", "trial", "lr x 2", "101"),
    ]
    assert table.caption == "The AP of a trial is on images of the training set."
    header, *rows = run_rows(summary)
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(r["role"], r["lr_factor"], r["weight_factor"]) for r in found[2:4]] == [
        ("tuning", 1.0, 1.0),
        ("tuning", 2.0, 1.0),
    ]
    data = {row[0]: row[1] for row in data_table(summary).rows}
    assert data == {
        **{"fake_train": "train", "fake_val": "test"},
        **{"trials_train": f"train{OF_TRIALS}", "trials_test": f"test{OF_TRIALS}"},
    }
    files = write_report(tmp_path, replicates=0)
    assert "Tested on fake_val" in files.html.read_text(encoding="utf-8")
    assert "Tested on trials_test" not in files.html.read_text(encoding="utf-8")
    with (tmp_path / "tables/tuning.csv").open(newline="") as stream:
        assert [row["lr_factor"] for row in csv.DictReader(stream)] == ["1.0", "2.0"]
    assert {run.setting for run in comparison.of_role("equal")} == {EQUAL}


def test_the_comparison_of_an_earlier_version_is_reported_without_its_trials(tmp_path, draw_only):
    draw_only("forest")
    tuned(tmp_path, {(2, 1): 12}, factors=(1.0, 2.0))
    file = tmp_path / "comparison.json"
    content = json.loads(file.read_text())
    for run in content["runs"]:
        run["lr_factor"] = run.pop("setting")["lr_factor"]
    del content["grid"], content["origins"]
    file.write_text(json.dumps({**content, "lr_factors": [1.0, 2.0]}))
    summary = write_report(tmp_path, replicates=0).summary
    assert (summary.tuning, summary.best) == (None, None)
    assert summary.equal.arm("FL").metrics["AP"].n == 2
    assert [row[1] for row in run_table(summary).rows].count("trial") == 12


def test_the_detections_of_trials_are_in_no_number_of_the_arms(tmp_path):
    tuned(tmp_path / "with", {(1, 1): 12}, factors=(1.0,))
    write_comparison(tmp_path / "without", {"CE": FakeArm(), "FL": FakeArm()})
    found, expected = (summarize(tmp_path / name, replicates=0) for name in ("with", "without"))
    assert found.equal == expected.equal
    assert found.detections.arms == expected.detections.arms
    assert found.detections.problems == expected.detections.problems == ()
    assert (found.recipe, found.fairness.starts) == (expected.recipe, expected.fairness.starts)
    assert found.costs == expected.costs
