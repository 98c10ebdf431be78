import json
import math
import statistics

import pytest

from focal_plugin.compare.analysis import loss_views
from focal_plugin.compare.analysis.problem import Problem, ProblemKind
from focal_plugin.compare.analysis.scores import (
    NO_GROUND_TRUTH,
    NO_PREDICTIONS,
    NOT_EVALUATED,
    Spread,
)
from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.analysis.verdicts import Flaw, FlawKind, WorstCase
from focal_plugin.compare.plan.setting import EQUAL, Setting
from focal_plugin.compare.report.json_content import json_content
from focal_plugin.compare.report.sentences import fairness_sentences, provenance_sentences

from ..fake_comparison import (
    TRIAL_SEEDS,
    FakeArm,
    change_result,
    fake_snapshot,
    folder_of,
    write_comparison,
    write_env,
    write_metrics,
    write_snapshot,
)

SIX = (1, 2, 3, 4, 5, 6)


def summary_of(folder, arms=None, seeds=(1, 2), *, replicates=0, **more):
    arms = {"CE": FakeArm(), "FL": FakeArm(0.9)} if arms is None else arms
    write_comparison(folder, arms, seeds, **more)
    return summarize(folder, replicates=replicates)


def test_an_arm_is_described_by_the_values_of_its_seeds(tmp_path):
    summary = summary_of(tmp_path, seeds=(1, 2, 3))
    values = [run.ap["AP"] for run in summary.runs if run.arm == "FL"]
    spread = summary.equal.arm("FL").metrics["AP"]
    assert spread.mean == pytest.approx(statistics.mean(values))
    assert spread.std == pytest.approx(statistics.stdev(values))
    assert (spread.n, spread.by_seed) == (3, dict(zip((1, 2, 3), values, strict=True)))


def test_six_seeds_decide_a_large_difference(tmp_path):
    summary = summary_of(tmp_path, {"CE": FakeArm(0.3), "FL": FakeArm(0.95)}, SIX)
    verdict = summary.equal.verdict("FL")
    assert (verdict.decision, verdict.flaw) == ("higher", None)
    assert verdict.p < 0.05
    assert summary.complete


def test_a_failed_run_is_shown_and_its_arm_is_judged_on_the_other_seeds(tmp_path):
    arms = {"CE": FakeArm(0.3), "FL": FakeArm(0.95, {7: "failed"}), "GHM": FakeArm(0.95)}
    summary = summary_of(tmp_path, arms, (*SIX, 7))
    scores, verdict = summary.equal.arm("FL"), summary.equal.verdict("FL")
    assert (scores.states["failed"], scores.metrics["AP"].n, scores.failed) == (1, 6, (7,))
    assert (verdict.decision, verdict.flaw) == ("higher", None)
    assert verdict.difference.seeds == SIX
    (row,) = [run for run in summary.runs if run.state == "failed"]
    assert (row.reason, row.exit_code, row.log_tail) == (
        "Loss became infinite",
        1,
        ("the last line",),
    )
    assert (row.ap, row.iterations_done, row.restarts) == ({}, 20, 1)
    assert summary.equal.verdict("GHM").worst_case is None


def test_the_worst_case_gives_a_failed_run_an_ap_of_0(tmp_path):
    arms = {"CE": FakeArm(0.6), "FL": FakeArm(0.95, {7: "failed"})}
    summary = summary_of(tmp_path, arms, (*SIX, 7))
    verdict = summary.equal.verdict("FL")
    reference = summary.equal.arm("CE").metrics["AP"].by_seed[7]
    expected = (sum(verdict.difference.differences) - reference) / 7
    assert verdict.decision == "higher"
    assert verdict.worst_case == WorstCase(1, pytest.approx(expected), "undecided")


def test_a_failed_run_of_the_reference_counts_in_every_arm(tmp_path):
    arms = {"CE": FakeArm(0.3, {7: "failed"}), "FL": FakeArm(0.95)}
    summary = summary_of(tmp_path, arms, (*SIX, 7))
    verdict = summary.equal.verdict("FL")
    assert (verdict.decision, verdict.difference.n) == ("higher", 6)
    assert (verdict.worst_case.failed, verdict.worst_case.decision) == (1, "higher")


def test_there_is_no_verdict_before_the_last_run(tmp_path):
    arms = {"CE": FakeArm(0.3), "FL": FakeArm(0.95, {7: "running", 8: "missing"})}
    summary = summary_of(tmp_path, arms, (*SIX, 7, 8))
    verdict = summary.equal.verdict("FL")
    assert verdict.decision == "undecided"
    assert verdict.flaw == Flaw(FlawKind.UNFINISHED, 2, 8)
    assert verdict.difference.n == 6
    assert summary.states == {"pending": 1, "running": 1, "done": 14, "failed": 0}
    assert not summary.complete


def test_a_run_that_detected_nothing_has_no_number_but_counts_in_the_verdict(tmp_path):
    arms = {"CE": FakeArm(0.3), "FL": FakeArm(0.95, {7: "empty"})}
    summary = summary_of(tmp_path, arms, (*SIX, 7), replicates=10)
    scores, verdict = summary.equal.arm("FL"), summary.equal.verdict("FL")
    spread = scores.metrics["AP"]
    assert (spread.by_seed[7], spread.n, spread.without) == (NO_PREDICTIONS, 6, 1)
    assert min(spread.numbers.values()) > 10
    found = summary.detections.arms["FL"]
    assert found.recall.by_seed[7] == found.per_class[0].by_seed[7] == NO_PREDICTIONS
    assert found.errors["missed"].by_seed[7] == NO_PREDICTIONS
    # leaving it out would favor its arm
    reference = summary.equal.arm("CE").metrics["AP"].by_seed[7]
    assert verdict.difference.differences[-1] == pytest.approx(-reference)
    assert scores.empty == 1
    assert found.images.difference == pytest.approx(verdict.difference.mean)


def test_an_arm_that_always_detects_nothing_is_lower(tmp_path):
    arms = {"CE": FakeArm(0.6), "FL": FakeArm(without=dict.fromkeys(SIX, "empty"))}
    summary = summary_of(tmp_path, arms, SIX)
    assert summary.equal.verdict("FL").decision == "lower"
    assert summary.equal.arm("FL").metrics["AP"].state == NO_PREDICTIONS
    assert summary.detections.arms["FL"].curves == {}


def test_a_run_whose_evaluation_is_unknown_leaves_its_arm_undecided(tmp_path):
    arms = {"CE": FakeArm(0.3), "FL": FakeArm(0.95)}
    comparison = write_comparison(tmp_path, arms, (*SIX, 7))
    folder = folder_of(tmp_path, comparison, "FL", 7)
    change_result(folder, ap=dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl")))
    verdict = summarize(tmp_path, replicates=0).equal.verdict("FL")
    assert (verdict.decision, verdict.flaw) == ("undecided", Flaw(FlawKind.NO_AP, 1, 7))


def test_a_size_without_objects_has_no_ground_truth(tmp_path):
    summary = summary_of(tmp_path)
    spread = summary.equal.arm("CE").metrics["APl"]
    assert (spread.mean, spread.n, spread.state) == (None, 0, NO_GROUND_TRUTH)
    assert summary.equal.arm("CE").metrics["APs"].n == 2


def test_an_unfinished_arm_is_not_evaluated(tmp_path):
    arms = {"CE": FakeArm(), "FL": FakeArm(without={1: "missing", 2: "running"})}
    summary = summary_of(tmp_path, arms)
    assert summary.equal.arm("FL").metrics["AP"].state == NOT_EVALUATED
    assert summary.equal.verdict("FL").difference is None
    assert summary.equal.verdict("FL").flaw == Flaw(FlawKind.NONE_DONE, 2, 2)


def test_a_comparison_that_has_not_begun_can_be_summarized(tmp_path):
    arms = dict.fromkeys(("CE", "FL"), FakeArm(without={1: "missing", 2: "missing"}))
    summary = summary_of(tmp_path, arms)
    assert not summary.has_results
    assert summary.recommendations == ()
    assert summary.detections.problems == (Problem(ProblemKind.NO_RUN_DONE),)
    json.dumps(json_content(summary), allow_nan=False)


def test_classes_stand_in_the_order_of_their_frequency_in_training(tmp_path):
    summary = summary_of(tmp_path)
    classes = summary.detections.classes
    assert [(c.label, c.train_objects, c.val_objects) for c in classes] == [
        ("common", 90, 8),
        ("middling", 20, 8),
        ("rare", 3, 8),
    ]


def test_the_values_of_a_class_are_those_of_that_class(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm()}, (1,))
    file = folder_of(tmp_path, comparison, "CE", 1) / "inference/coco_instances_results.json"
    found = [d for d in json.loads(file.read_text()) if d["category_id"] == 2]
    file.write_text(json.dumps(found))
    summary = summarize(tmp_path, replicates=0)
    values = [spread.mean for spread in summary.detections.arms["CE"].per_class]
    assert values[0] > 10
    assert values[1:] == [0, 0]


def test_the_repeated_evaluation_equals_the_result(tmp_path):
    summary = summary_of(tmp_path)
    per_class = [spread.mean for spread in summary.detections.arms["FL"].per_class]
    assert statistics.mean(per_class) == pytest.approx(summary.equal.arm("FL").metrics["AP"].mean)


def test_two_classes_of_one_name_are_told_apart(tmp_path):
    summary = summary_of(tmp_path, classes=("dog", "dog", "cat"))
    labels = [c.label for c in summary.detections.classes]
    assert sorted(labels) == ["cat", "dog (id 1)", "dog (id 2)"]
    counts = {c.label: c.train_objects for c in summary.detections.classes}
    assert counts == {"cat": 20, "dog (id 1)": None, "dog (id 2)": None}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("changed", ProblemKind.GROUND_TRUTH_CHANGED),
        ("gone", ProblemKind.GROUND_TRUTH_MISSING),
        ("not recorded", ProblemKind.NO_DATA_RECORDED),
    ],
)
def test_without_its_ground_truth_nothing_is_evaluated_again(tmp_path, fault, kind):
    comparison = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()})
    truth = tmp_path / "data" / "annotations.json"
    if fault == "changed":
        truth.write_text(truth.read_text() + " ")
    elif fault == "gone":
        truth.unlink()
    else:
        for run in comparison.runs:
            (tmp_path / run.id / "env.json").unlink()
    summary = summarize(tmp_path, replicates=0)
    assert [problem.kind for problem in summary.detections.problems] == [kind]
    assert summary.detections.arms["CE"].recall.state == NOT_EVALUATED
    assert summary.equal.arm("CE").metrics["AP"].n == 2


def test_a_missing_folder_of_images_is_said_and_the_numbers_stay(tmp_path):
    write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()})
    assert summarize(tmp_path, replicates=0).detections.choice is not None
    images = tmp_path / "data" / "images"
    images.rename(tmp_path / "elsewhere")
    summary = summarize(tmp_path, replicates=0)
    (problem,) = summary.detections.problems
    assert (problem.kind, problem.detail) == (ProblemKind.IMAGES_MISSING, str(images))
    assert summary.detections.choice is None
    assert summary.detections.arms["CE"].recall.n == 2


def test_detections_that_cannot_be_read_are_a_problem_of_their_run_alone(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()})
    folder = folder_of(tmp_path, comparison, "FL", 2)
    (folder / "inference/coco_instances_results.json").write_text('[{"image_id": 1')
    summary = summarize(tmp_path, replicates=0)
    (problem,) = summary.detections.problems
    assert (problem.kind, problem.names) == (ProblemKind.DETECTIONS_BROKEN, ("FL seed 2",))
    assert summary.detections.arms["FL"].recall.by_seed[2] == NOT_EVALUATED
    assert summary.detections.arms["CE"].recall.n == 2


def test_other_images_make_an_interval_around_the_difference(tmp_path):
    summary = summary_of(tmp_path, replicates=50)
    images = summary.detections.arms["FL"].images
    low, high = images.interval
    assert low < images.difference < high
    assert images.difference == pytest.approx(summary.equal.verdict("FL").difference.mean)
    assert summary.detections.arms["CE"].images is None


def test_the_data_of_a_summary_is_strict_json(tmp_path):
    arms = {"CE": FakeArm(), "FL": FakeArm(without={1: "empty"}), "GHM": FakeArm(0.0)}
    summary = summary_of(tmp_path, arms, snapshots=True)
    assert math.inf in summary.detections.choice.thresholds.values()  # GHM has no correct detection
    text = json.dumps(json_content(summary), allow_nan=False)
    assert json.loads(text)["equal"]["arms"][0]["metrics"]["AP"]["n"] == 2


def test_each_arm_stands_at_its_best_learning_rate_too(tmp_path):
    arms = {"CE": FakeArm(0.9), "FL": FakeArm(0.5)}  # with factor 2, FL finds everything
    summary = summary_of(
        tmp_path, arms, factors=(0.5, 1.0, 2.0), best={"CE": Setting(2.0), "FL": Setting(2.0)}
    )
    assert {tuned.best for tuned in summary.tuning.arms.values()} == {Setting(2.0)}
    assert [scores.setting for scores in summary.best.arms] == [Setting(2.0)] * 2
    assert (summary.tuning.iterations, summary.tuning.grid.seeds) == (720, TRIAL_SEEDS)
    assert summary.best.arm("FL").planned == 2


def test_an_arm_that_is_best_as_it_is_needs_no_other_runs(tmp_path):
    arms = {"CE": FakeArm(0.9), "FL": FakeArm(0.9)}
    summary = summary_of(tmp_path, arms, factors=(0.5, 1.0))
    assert [scores.setting for scores in summary.best.arms] == [EQUAL, EQUAL]
    assert summary.best.arm("FL").metrics == summary.equal.arm("FL").metrics


def test_an_untrained_best_rate_has_no_verdict(tmp_path):
    arms = {"CE": FakeArm(0.9), "FL": FakeArm(0.4)}
    summary = summary_of(tmp_path, arms, factors=(1.0, 2.0))
    assert summary.best.arm("FL").setting is None
    assert summary.best.verdict("FL").flaw.kind is FlawKind.NOT_PLANNED


def test_curves_are_means_over_the_seeds_between_lowest_and_highest(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()})
    for seed, loss in ((1, 1.0), (2, 4.0)):
        lines = [
            {"iteration": 19, "total_loss": loss, "time": 0.1},
            {"iteration": 39, "total_loss": math.nan if seed == 2 else 3.0},
        ]
        write_metrics(folder_of(tmp_path, comparison, "CE", seed), lines)
    curve = summarize(tmp_path, replicates=0).curves["CE"]["total_loss"]
    assert (curve.iterations, curve.runs) == ((19, 39), (2, 1))
    assert (curve.mean, curve.low, curve.high) == ((2.5, 3.0), (1.0, 3.0), (4.0, 3.0))


def test_costs_are_those_of_the_runs(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm()})
    change_result(folder_of(tmp_path, comparison, "CE", 1), iteration_s=0.2)
    change_result(folder_of(tmp_path, comparison, "CE", 2), iteration_s=0.4)
    cost = summarize(tmp_path, replicates=0).costs["CE"]
    assert cost.iteration_s.mean == pytest.approx(0.3)
    assert cost.training_s.mean == pytest.approx(0.3 * 40)


def test_a_config_key_that_is_not_of_the_loss_is_flagged(tmp_path):
    arms = {
        "CE": FakeArm(config="MODEL: {FOCAL: {CLS_LOSS: {NAME: CE}}, FPN: {OUT_CHANNELS: 64}}"),
        "FL": FakeArm(config="MODEL: {FOCAL: {CLS_LOSS: {NAME: FL}}, FPN: {OUT_CHANNELS: 96}}"),
    }
    fairness = summary_of(tmp_path, arms).fairness
    assert [(d.key, d.is_loss) for d in fairness.differences] == [
        ("MODEL.FOCAL.CLS_LOSS.NAME", True),
        ("MODEL.FPN.OUT_CHANNELS", False),
    ]


def test_different_weights_and_data_are_reported(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm(), "GHM": FakeArm()})
    same = summarize(tmp_path, replicates=0).fairness
    assert (same.starts["FL"].same_weights, same.starts["FL"].same_data) == (2, 2)
    for arm, key in (("FL", "weights"), ("GHM", "data")):
        file = folder_of(tmp_path, comparison, arm, 2) / "start.json"
        start = json.loads(file.read_text())
        start["weights" if key == "weights" else "data"] = (
            {"conv": {"shape": [2], "sha256": "x"}} if key == "weights" else ["x"] * 8
        )
        file.write_text(json.dumps(start))
    other = summarize(tmp_path, replicates=0)
    starts = other.fairness.starts
    assert (starts["FL"].same_weights, starts["FL"].same_data, starts["FL"].seeds) == (1, 2, 2)
    assert (starts["GHM"].same_weights, starts["GHM"].same_data) == (2, 1)
    said = fairness_sentences(other)
    assert "The initial weights differ from CE at the same seed: FL." in said
    assert "The data differ from CE at the same seed: GHM." in said


def test_different_versions_and_threads_are_reported(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()})
    assert provenance_sentences(summarize(tmp_path, replicates=0).provenance) == []
    folder = folder_of(tmp_path, comparison, "FL", 2)
    data = json.loads((folder / "env.json").read_text())["datasets"]["test"][0]
    write_env(folder, data, threads=2, versions={"python": "3.11", "torch": "2.12"})
    found = summarize(tmp_path, replicates=0).provenance
    assert provenance_sentences(found) == [
        "Not all runs were made with the same torch: 2.11 (3), 2.12 (1).",
        "Not all runs were made with the same threads: 1 (3), 2 (1).",
    ]


def test_seeds_are_recommended_by_the_spread_of_the_differences(tmp_path):
    summary = summary_of(tmp_path, seeds=(1, 2, 3))
    assert summary.spread_of_differences == pytest.approx(
        summary.equal.verdict("FL").difference.std
    )
    assert len(summary.recommendations) == 3
    assert summary.recommendations[0].seeds is None or summary.recommendations[0].seeds >= 6


@pytest.mark.parametrize("many_runs", [1, 50])
def test_the_views_of_a_loss_are_means_over_the_seeds(tmp_path, monkeypatch, many_runs):
    monkeypatch.setattr(loss_views, "_MANY_RUNS", many_runs)
    comparison = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()}, snapshots=True)
    file = folder_of(tmp_path, comparison, "FL", 2) / "diagnostics/start_retinanet.npz"
    write_snapshot(file, fake_snapshot(iteration=0, loss_pos=9.0))
    views = summarize(tmp_path, replicates=0).losses
    (ce, fl), problems = views.of("retinanet", "start"), views.problems
    assert (ce.arm, fl.arm, problems) == ("CE", "FL", ())
    assert fl.audit["loss_pos"].mean == pytest.approx(7.0)
    assert fl.audit["loss_sum"].mean == pytest.approx(9.0)
    assert fl.first_norms == (8, 4, 2)
    assert (fl.cdf_neg[0], fl.cdf_neg[-1]) == (0, 1)
    assert sum(fl.gradient_pos) + sum(fl.gradient_neg) == pytest.approx(1)


def test_arms_with_other_anchors_are_named(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()}, snapshots=True)
    file = folder_of(tmp_path, comparison, "FL", 2) / "diagnostics/final_retinanet.npz"
    write_snapshot(file, fake_snapshot(anchors_digest="b"))
    (problem,) = summarize(tmp_path, replicates=0).losses.problems
    assert problem == Problem(ProblemKind.OTHER_ANCHORS, ("FL",), "retinanet")


def test_a_broken_snapshot_is_a_problem_of_its_run(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()}, snapshots=True)
    file = folder_of(tmp_path, comparison, "FL", 2) / "diagnostics/final_retinanet.npz"
    file.write_bytes(b"PK")
    losses = summarize(tmp_path, replicates=0).losses
    assert losses.problems[0].names == ("FL seed 2",)
    assert len(losses.of("retinanet", "final")) == 2


def test_a_run_is_done_if_and_only_if_it_has_a_result(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm()})
    one, two = (folder_of(tmp_path, comparison, "CE", seed) for seed in (1, 2))
    (one / "status.json").unlink()
    (two / "result.json").unlink()
    states = [run.state for run in summarize(tmp_path, replicates=0).runs]
    assert states == ["done", "pending"]


def test_a_folder_without_comparison_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no comparison"):
        summarize(tmp_path)


def test_a_spread_of_states_alone_has_no_mean():
    spread = Spread.of({1: NO_PREDICTIONS, 2: NO_PREDICTIONS})
    assert (spread.mean, spread.n, spread.state, spread.without) == (None, 0, NO_PREDICTIONS, 2)
    assert Spread.of({}).state == NOT_EVALUATED
