"""Section on detections and their score cut-off."""

import json

import pytest

from focal_plugin.compare.analysis.arm_lists import ArmLists
from focal_plugin.compare.analysis.scores import Spread
from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.report.list_section import list_rows, list_sentences, list_table
from focal_plugin.compare.report.sections import contents
from focal_plugin.compare.report.tables import error_table, image_table

from ..fake_comparison import FakeArm, folder_of, write_comparison, write_detections


def config(cut_off, limit=100):
    model = f"MODEL: {{META_ARCHITECTURE: RetinaNet, RETINANET: {{SCORE_THRESH_TEST: {cut_off}}}}}"
    return f"{model}\nTEST: {{DETECTIONS_PER_IMAGE: {limit}}}"


def summary_of(folder, cut_offs, **more):
    arms = {arm: FakeArm(config=config(cut_off)) for arm, cut_off in cut_offs.items()}
    write_comparison(folder, arms, **more)
    return summarize(folder, replicates=4)


def test_every_arm_has_its_detections_and_its_cut_off(tmp_path):
    table = list_table(summary_of(tmp_path, {"CE": 0.001, "DR": 0.2}))
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [row["score cut-off"] for row in rows] == ["0.001", "0.2"]
    assert {row["per image"] for row in rows} == {"3.0 ± 0.0"}
    assert {row["images at the limit"] for row in rows} == {"0%"}
    assert {row["limit"] for row in rows} == {"100"}


def test_arms_with_other_cut_offs_are_named(tmp_path):
    told = list_sentences(summary_of(tmp_path, {"CE": 0.001, "DR": 0.2}))
    assert "CE from 0.001 on; DR from 0.2 on" in told[0]
    assert told[1].startswith("The config of DR drops detections below a score of 0.2.")


def test_equal_low_cut_offs_need_no_word(tmp_path):
    assert list_sentences(summary_of(tmp_path, {"CE": 0.001, "FL": 0.001})) == []


def test_a_cut_off_that_would_cost_an_arm_is_a_warning(tmp_path):
    summary = summary_of(tmp_path, {"CE": 0.001, "FL": 0.001})
    (file,) = (tmp_path).glob("CE-seed1-*/inference/coco_instances_results.json")
    found = json.loads(file.read_text())
    for detection in found:
        detection["score"] /= 20
    write_detections(file.parents[1], found)
    (told,) = list_sentences(summarize(tmp_path, replicates=0))
    lost = summary.detections.arms["CE"].recall  # only that there is something to lose
    assert lost.n == 2
    assert told.startswith("A score cut-off of 0.05, Detectron2's default, would cost AP: CE ")
    assert "FL" not in told


def lists(**more):
    nothing = Spread.of({1: 0.0})
    fields = {"cut_offs": (), "lowest": 0.001, "limit": None}
    fields |= dict.fromkeys(("per_image", "full", "cut_cost", "limit_cost"), nothing)
    return ArmLists(**{**fields, **more})


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"cut_offs": (0.001, 0.01)}, "cut_above", 0.01),
        ({"cut_offs": (0.001,)}, "cut_above", None),
        ({"lowest": 0.06}, "looks_cut", True),
        ({"lowest": 0.06, "cut_offs": (0.001,)}, "looks_cut", False),
        ({"lowest": None}, "looks_cut", False),
        ({"cut_cost": Spread.of({1: 0.1, 2: 0.5})}, "cost_at_stock", 0.3),
        ({"cut_cost": Spread.of({1: 0.2})}, "cost_at_stock", None),
        ({"cut_cost": Spread.of({1: 0.3}), "cut_offs": (0.05,)}, "cost_at_stock", None),
        ({"limit_cost": Spread.of({1: 0.3})}, "cost_at_half", 0.3),
        ({"limit_cost": Spread.of({1: 0.1})}, "cost_at_half", None),
    ],
)
def test_only_a_notable_cost_is_one(fields, name, expected):
    assert getattr(lists(**fields), name) == (
        pytest.approx(expected) if type(expected) is float else expected
    )


def test_a_limit_that_binds_is_a_warning(tmp_path):
    arms = {"CE": FakeArm(config=config(0.001, limit=2)), "FL": FakeArm(config=config(0.001))}
    write_comparison(tmp_path, arms)
    (told,) = list_sentences(summarize(tmp_path, replicates=0))
    assert told.startswith("On 100% of the images, CE has 2 detections, the limit.")


def test_a_comparison_that_was_not_evaluated_has_no_such_section(tmp_path):
    arms = dict.fromkeys(("CE", "FL"), FakeArm(without={1: "missing"}))
    write_comparison(tmp_path, arms, seeds=(1,))
    summary = summarize(tmp_path, replicates=0)
    assert "lists" not in {content.section.name for content in contents(summary)}
    assert len(list(list_rows(summary))) == 1


def test_missed_objects_are_counted_beside_their_cost(tmp_path):
    arms = {"all": FakeArm(skill=1), "none": FakeArm(skill=0)}
    comparison = write_comparison(tmp_path, arms, seeds=(1,))
    write_detections(folder_of(tmp_path, comparison, "none", 1), [])
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5},
    ]
    write_detections(folder_of(tmp_path, comparison, "none", 1), found)
    table = error_table(summarize(tmp_path, replicates=0))
    counts = {row[0]: row[table.header.index("missed objects")] for row in table.rows}
    assert counts == {"all": "0", "none": "24"}
    assert "of 24" in table.caption
    costs = {row[0]: row[table.header.index("missed")] for row in table.rows}
    assert costs["none"] == "0.0"  # every object of every class is missed: the jump


def test_one_seed_has_no_p_on_resampled_images(tmp_path):
    arms = {"CE": FakeArm(0.3), "FL": FakeArm(0.9)}
    for folder, seeds in ((tmp_path / "one", (1,)), (tmp_path / "two", (1, 2))):
        write_comparison(folder, arms, seeds=seeds)
    one, two = (summarize(tmp_path / name, replicates=50) for name in ("one", "two"))
    assert "p" not in image_table(one).header
    assert one.detections.arms["FL"].images.p is None
    assert "p" in image_table(two).header
    assert two.detections.arms["FL"].images.p < 0.2
