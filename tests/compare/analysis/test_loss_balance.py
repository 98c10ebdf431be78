"""Balance of both losses of each arm, and of the section of the report on it."""

import csv
import io
import json
import math

import pytest

from focal_plugin.compare.analysis.loss_balance import ArmBalance, Balances, geometric
from focal_plugin.compare.analysis.problem import ProblemKind
from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.report.balance_section import (
    REMARK,
    balance_rows,
    balance_sentences,
    balance_table,
)
from focal_plugin.compare.report.csv_tables import csv_text
from focal_plugin.compare.report.json_content import json_content
from focal_plugin.compare.report.sections import contents
from focal_plugin.pages.text import NOTHING

from ...each import each
from ..fake_comparison import FakeArm, change_balance, folder_of, write_comparison

ARMS = ("CE", "FL", "GHM")


def write(folder, ratios, **more):
    """Write a comparison; ``ratios``: (arm, seed, moment) -> part -> ratio."""
    arms = {arm: FakeArm() for arm in ARMS}
    comparison = write_comparison(folder, arms, (1, 2), **more)
    for (arm, seed, moment), parts in ratios.items():
        change_balance(folder_of(folder, comparison, arm, seed), moment, **parts)
    return comparison


def at_start(**ratios):
    """Return the ratios of both seeds at the start: arm -> (seed 1, seed 2)."""
    return {
        (arm, seed, "start"): {"retinanet": ratio}
        for arm, of_arm in ratios.items()
        for seed, ratio in enumerate(of_arm, start=1)
    }


def summary_of(folder, ratios, **more):
    write(folder, ratios, **more)
    return summarize(folder, replicates=0)


@each(
    ("values", "mean", "spread"),
    [
        ((2.0, 8.0), 4.0, math.exp(math.log(4) / math.sqrt(2))),
        ((5.0, 5.0, 5.0), 5.0, 1.0),
        ((3.0, None), 3.0, None),
        ((None,), None, None),
        ((), None, None),
    ],
)
def test_means_and_deviations_are_of_logarithms(values, mean, spread):
    found = geometric(values)
    assert found[0] == (None if mean is None else pytest.approx(mean))
    assert found[1] == (None if spread is None else pytest.approx(spread))


def test_an_arm_is_compared_with_the_reference_at_each_moment(tmp_path):
    ratios = at_start(CE=(2.0, 8.0), FL=(1.0, 1.0))
    ratios |= {("CE", 1, "final"): {"retinanet": 3.0}, ("FL", 1, "final"): {"retinanet": 6.0}}
    found = summary_of(tmp_path, ratios).balances
    assert [(b.arm, b.moment) for b in found.arms] == [
        ("CE", "start"),
        ("CE", "final"),
        ("FL", "start"),
        ("FL", "final"),
    ]
    start, final = (found.of("FL", "retinanet", moment) for moment in ("start", "final"))
    assert start.by_seed == {1: 1.0, 2: 1.0}
    assert start.factor == pytest.approx(1 / 4)
    assert (start.iteration, final.iteration) == (0, 40)
    assert (final.ratio, final.spread) == (pytest.approx(6.0), None)
    assert final.factor == pytest.approx(2.0)
    assert found.of("CE", "retinanet", "final").factor == 1
    assert [(b.arm, b.moment) for b in found.flagged] == [("FL", "start")]


@each(
    ("reference", "ratio", "differs"),
    [
        (1.0, 3.0, False),
        (0.7, 2.1, False),
        (3.0, 1.0, False),
        (2.1, 0.7, False),
        (1.0, 3.001, True),
        (3.001, 1.0, True),
        (1.0, 1.0, False),
    ],
)
def test_a_factor_above_3_in_either_direction_is_flagged(reference, ratio, differs):
    against, _ = geometric([reference])
    mean, _ = geometric([ratio])
    factor = mean / against
    balance = ArmBalance("FL", "retinanet", "start", 0, {1: ratio}, mean, None, factor)
    assert balance.differs == differs


def test_a_ratio_that_does_not_exist_leaves_its_seed_out(tmp_path):
    found = summary_of(tmp_path, at_start(CE=(None, None), FL=(None, 5.0))).balances
    ce, fl = (found.of(arm, "retinanet", "start") for arm in ("CE", "FL"))
    assert (ce.ratio, ce.factor, ce.differs) == (None, None, False)
    assert (fl.ratio, fl.factor, fl.by_seed) == (pytest.approx(5), None, {1: None, 2: 5.0})


def test_runs_without_a_record_have_no_section_and_no_problem(tmp_path):
    summary = summary_of(tmp_path, {})
    assert summary.balances == Balances(())
    assert summary.problems == ()
    assert (balance_table(summary), balance_sentences(summary)) == (None, [])
    assert "balance" not in [content.section.name for content in contents(summary)]


def test_a_damaged_record_is_a_problem_of_its_run(tmp_path):
    comparison = write(tmp_path, at_start(CE=(2.0, 2.0), FL=(8.0, 8.0)))
    file = folder_of(tmp_path, comparison, "FL", 2) / "diagnostics/balance_start.json"
    file.write_text('{"iteration": 0}')
    summary = summarize(tmp_path, replicates=0)
    (problem,) = summary.problems
    assert (problem.kind, problem.names) == (ProblemKind.FILE_DAMAGED, ("FL seed 2",))
    assert problem.detail == f"{file} is damaged: num_images is missing"
    assert summary.balances.of("FL", "retinanet", "start").by_seed == {1: 8.0}


def test_a_flagged_arm_has_a_sentence_for_each_moment(tmp_path):
    ratios = at_start(CE=(9.1, 9.1), FL=(0.8, 0.8), GHM=(9.0, 9.0))
    ratios |= {("CE", 1, "final"): {"retinanet": 0.5}, ("FL", 1, "final"): {"retinanet": 80.0}}
    assert balance_sentences(summary_of(tmp_path, ratios)) == [
        "FL starts with a classification : box ratio of 0.8, 1/11 of that of CE (9.1).",
        "FL ends with a classification : box ratio of 80, 160 times that of CE (0.5).",
        REMARK,
    ]


def test_sentences_name_the_part_if_there_are_several(tmp_path):
    ratios = {
        (arm, 1, "final"): {"rpn": 1.0, "roi_heads": ratio}
        for arm, ratio in (("CE", 1.0), ("FL", 4.0))
    }
    (sentence, _) = balance_sentences(summary_of(tmp_path, ratios))
    assert sentence == (
        "FL ends with a classification : box ratio of 4 in roi_heads, 4 times that of CE (1)."
    )


def test_the_table_has_a_row_for_each_part_and_arm(tmp_path):
    ratios = at_start(CE=(2.0, 8.0), FL=(20.0, 20.0))
    ratios |= {("FL", 1, "final"): {"retinanet": None, "rpn": 2.0}}
    table = balance_table(summary_of(tmp_path, ratios))
    assert table.rows == (
        ("CE", "retinanet", "4 \N{MULTIPLICATION SIGN}/ 2.67", "1", NOTHING, NOTHING, ""),
        (
            *("FL", "retinanet", "20 \N{MULTIPLICATION SIGN}/ 1.00", "5"),
            *("no ratio", NOTHING, "start"),
        ),
        ("FL", "rpn", NOTHING, NOTHING, "2", NOTHING, ""),
    )


def test_programs_get_the_numbers_in_full(tmp_path):
    summary = summary_of(tmp_path, at_start(CE=(2.0, 2.0), FL=(14.0, None)))
    rows = list(csv.DictReader(io.StringIO(csv_text(balance_rows(summary)))))
    assert [row["arm"] for row in rows] == ["CE", "FL"]
    assert (rows[1]["part"], rows[1]["moment"], rows[1]["n"]) == ("retinanet", "start", "1")
    assert float(rows[1]["factor"]) == pytest.approx(7)
    assert (rows[0]["differs"], rows[1]["differs"], rows[1]["spread"]) == ("False", "True", "")
    content = json.loads(json.dumps(json_content(summary)["balances"], allow_nan=False))
    assert content["arms"][1]["by_seed"] == {"1": 14.0, "2": None}
    assert content["sentences"] == balance_sentences(summary)


def test_the_section_is_one_of_the_causes_besides_the_loss(tmp_path):
    (content,) = [
        content
        for content in contents(summary_of(tmp_path, {}, snapshots=True))
        if content.section.name == "balance"
    ]
    assert content.section.chapter == "fairness"
    assert content.title == "Balance of classification and box loss"
    assert [len(table.rows) for table in content.tables] == [3]
    assert content.sentences == []
