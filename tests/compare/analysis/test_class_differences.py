import hashlib
import json
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy import stats

from focal_plugin.compare.analysis.class_differences import class_groups
from focal_plugin.compare.analysis.detection_analysis import ClassOfData
from focal_plugin.compare.analysis.statistics import holm
from focal_plugin.compare.analysis.summary import summarize

from ..fake_comparison import FakeArm, change_result, folder_of, write_comparison

SIX = (1, 2, 3, 4, 5, 6)


def summary_of(folder, arms, seeds=SIX, **more):
    write_comparison(folder, arms, seeds, **more)
    return summarize(folder, replicates=0)


def classes(*trained, images=None, tested=5):
    images = [None] * len(trained) if images is None else images
    return [
        ClassOfData(i, f"class {i}", objects, of_images, tested)
        for i, (objects, of_images) in enumerate(zip(trained, images, strict=True))
    ]


@pytest.mark.slow
def test_the_differences_of_a_class_are_those_of_its_ap_seed_by_seed(tmp_path):
    arms = {"CE": FakeArm(0.5), "FL": FakeArm(0.9), "GHM": FakeArm(0.4)}
    summary = summary_of(tmp_path, arms)
    detections, found = summary.detections, summary.class_differences
    p_values = {}
    for arm, k in product(("FL", "GHM"), range(3)):
        own, reference = (detections.arms[a].per_class[k].by_seed for a in (arm, "CE"))
        expected = stats.ttest_rel([own[s] for s in SIX], [reference[s] for s in SIX])
        p_values[arm, k] = expected.pvalue
        tested = found.classes[arm][k]
        interval = expected.confidence_interval(0.95)
        assert tested.interval == pytest.approx((interval.low, interval.high))
        assert (tested.pairs, found.tests) == (6, 6)
    for (arm, k), p in zip(p_values, holm(list(p_values.values())), strict=True):
        assert found.classes[arm][k].p == pytest.approx(p)
    assert all(c.p is None and c.difference is None for c in found.classes["CE"])


@pytest.mark.slow
def test_few_seeds_and_missing_runs_have_no_p_and_a_failed_run_leaves_its_pair_out(tmp_path):
    arms = {"CE": FakeArm(0.5), "FL": FakeArm(0.9)}
    few = summary_of(tmp_path / "few", arms, SIX[:3]).class_differences
    assert {c.p for c in few.classes["FL"]} == {None}
    assert all(c.interval for c in few.classes["FL"])
    for state in ("missing", "failed"):
        with_gap = {**arms, "GHM": FakeArm(0.9, {7: state})}
        found = summary_of(tmp_path / state, with_gap, (*SIX, 7)).class_differences
        assert {c.pairs for c in found.classes["GHM"]} == {6}
        assert {c.p is None for c in found.classes["GHM"]} == {state == "missing"}
    assert all(c.p is not None for c in found.classes["FL"])
    failed = {"CE": FakeArm(0.5, {7: "failed"}), "FL": FakeArm(0.9)}
    found = summary_of(tmp_path / "reference", failed, (*SIX, 7)).class_differences
    assert None not in {c.p for c in found.classes["FL"]}


def test_a_run_that_detected_nothing_counts_as_zero(tmp_path):
    arms = {"CE": FakeArm(0.5), "FL": FakeArm(0.9, {2: "empty"})}
    summary = summary_of(tmp_path, arms, (1, 2))
    found = summary.class_differences
    reference = summary.detections.arms["CE"]
    own = summary.detections.arms["FL"].per_class[0].by_seed[1]
    expected = (own - sum(reference.per_class[0].by_seed.values())) / 2
    assert found.classes["FL"][0].difference == pytest.approx(expected)
    small = summary.equal.arm("CE").metrics["APs"].by_seed
    own = summary.equal.arm("FL").metrics["APs"].by_seed[1]
    sizes = summary.sizes["FL"]
    assert sizes["APs"].difference == pytest.approx((own - small[1] - small[2]) / 2)
    assert (sizes["APl"].n, sizes["APl"].difference) == (0, None)  # no object of this size
    assert sizes["AR"].n == 2


def test_the_averages_of_the_groups_are_means_over_their_classes(tmp_path):
    summary = summary_of(tmp_path, {"CE": FakeArm(0.5), "FL": FakeArm(0.9)}, (1, 2))
    found = summary.class_differences
    assert found.counted == "objects"
    assert [(g.name, g.classes, g.fewest, g.most) for g in found.groups] == [
        ("rare", (2,), 3, 3),
        ("common", (1,), 20, 20),
        ("frequent", (0,), 90, 90),
    ]
    for i, group in enumerate(found.groups):
        assert found.by_group["FL"][i].mean == pytest.approx(
            np.mean([found.classes["FL"][k].mean for k in group.classes])
        )


def test_thirty_classes_have_the_groups_of_lvis():
    images = [1, 10, 11, 100, 101, *range(1000, 1025)]
    counted, groups = class_groups(classes(*[5000] * 30, images=images))
    assert counted == "images"
    assert [(g.name, g.classes) for g in groups] == [
        ("rare", (0, 1)),
        ("common", (2, 3)),
        ("frequent", tuple(range(4, 30))),
    ]
    # an older run recorded no images
    counted, groups = class_groups(classes(*range(30)))
    assert (counted, [len(g.classes) for g in groups]) == ("objects", [10, 10, 10])


def test_the_ground_truth_states_the_groups_whatever_the_training_data_says():
    found = [
        replace(data, frequency=letter)
        for data, letter in zip(classes(1, 2, 3, 4, 5), "fcrfr", strict=True)
    ]
    counted, groups = class_groups(found)
    assert counted == "frequency"
    assert [(g.name, g.classes, g.fewest, g.most) for g in groups] == [
        ("rare", (2, 4), None, None),
        ("common", (1,), None, None),
        ("frequent", (0, 3), None, None),
    ]
    assert class_groups([*found[:4], replace(found[4], frequency=None)])[0] == "objects"
    # no test object of a common class
    found[1] = replace(found[1], val_objects=0)
    assert [g.name for g in class_groups(found)[1]] == ["rare", "frequent"]


def test_few_classes_are_split_into_terciles():
    _, groups = class_groups(classes(500, 8, 40))
    assert [(g.name, g.classes) for g in groups] == [
        ("rare", (1,)),
        ("common", (2,)),
        ("frequent", (0,)),
    ]
    _, groups = class_groups(classes(500, 8))
    assert [g.name for g in groups] == ["rare", "frequent"]


@pytest.mark.parametrize("trained", [(7, 7, 7), (7,), (), (None, None), (None, 9)])
def test_there_are_no_groups_of_equal_or_unknown_classes(trained):
    assert class_groups(classes(*trained))[1] == ()


def test_a_class_without_test_objects_is_in_no_group():
    found = [*classes(5, 50, 500), ClassOfData(9, "unseen", 1, None, 0)]
    _, groups = class_groups(found)
    assert 3 not in [k for group in groups for k in group.classes]


def test_a_class_without_test_objects_is_no_hypothesis(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm(0.5), "FL": FakeArm(0.9)}, (1, 2))
    file = tmp_path / "data/annotations.json"
    truth = json.loads(file.read_text())
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 1]
    file.write_text(json.dumps(truth))
    _record_again(tmp_path, comparison, file)
    found = summarize(tmp_path, replicates=0).class_differences
    assert found.tests == 2
    unseen = found.classes["FL"][2]
    assert (unseen.mean, unseen.n, unseen.difference, unseen.p) == (None, 0, None, None)


def test_one_arm_alone_has_no_differences(tmp_path):
    found = summary_of(tmp_path, {"CE": FakeArm()}, (1,)).class_differences
    assert (found.tests, list(found.classes)) == (0, ["CE"])
    assert all(c.difference is None for c in found.classes["CE"])


def test_sizes_are_those_of_the_results(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()}, (1, 2))
    for arm, seed, value in (("CE", 1, 10.0), ("CE", 2, 20.0), ("FL", 1, 13.0), ("FL", 2, 25.0)):
        ap = {**dict.fromkeys(("AP", "AP50", "AP75", "APm", "APl"), 30.0), "APs": value}
        change_result(folder_of(tmp_path, comparison, arm, seed), ap=ap)
    found = summarize(tmp_path, replicates=0).sizes["FL"]["APs"]
    expected = stats.ttest_rel([13, 25], [10, 20]).confidence_interval(0.95)
    assert found.difference == 4
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert math.isfinite(found.mean)


def _record_again(folder, comparison, file):
    for run in comparison.runs:
        env = json.loads((folder / run.id / "env.json").read_text())
        env["datasets"]["test"][0]["json_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        (folder / run.id / "env.json").write_text(json.dumps(env))
