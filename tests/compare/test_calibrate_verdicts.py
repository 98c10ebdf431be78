"""Tests of the tool that measures how often verdicts are wrong."""

import json
import math

import numpy as np
import pytest

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.plan.comparison import Comparison, Run
from focal_plugin.compare.runs.result import Result

from ..conftest import ROOT
from ..tools import load_tool

IMAGES = 24


@pytest.fixture(scope="module")
def tool():
    return load_tool("calibrate_verdicts")


MARKS = """\
<!-- calibration: tools/calibrate_verdicts.py -->
<!-- end of calibration -->
<!-- seeds: tools/calibrate_verdicts.py -->
<!-- end of seeds -->
"""


def write_comparison(folder, values, arms=("FL",)):
    """Write a comparison with these AP values; None is an unfinished run."""
    runs = tuple(
        Run(arm, seed, "c.yaml", (), (), f"{seed:064x}", 400)
        for arm in arms
        for seed in range(len(values))
    )
    Comparison("one arm", arms, arms[0], tuple(range(len(values))), runs).write(folder)
    for run in runs:
        (folder / run.id).mkdir()
        value = values[run.seed]
        if value is not None:
            averages = {"AP": value, "AP50": 2 * value, "APl": None}
            Result(run.arm, run.seed, averages, {}, 400, 0.1, 900.0, "c").write(folder / run.id)
    return folder


def pool(tool, n=60, std=0.7):
    values = np.random.default_rng(0).normal(30, std, n)
    return tool.Pool("FL", "AP", tuple(values.tolist()), 0, ())


def write_data_set(folder):
    """Write a dataset with one object of one class per image."""
    images = [{"id": 10 + i, "file_name": f"{i}.png"} for i in range(IMAGES)]
    annotations = [
        {"id": i + 1, "image_id": 10 + i, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600}
        for i in range(IMAGES)
    ]
    content = {
        "images": images,
        "annotations": [{**a, "iscrowd": 0} for a in annotations],
        "categories": [{"id": 1, "name": "disc"}],
    }
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    return file


def detections(seed, shift=6.0):
    """Return one box per image, shifted by about ``shift`` pixels."""
    generator = np.random.default_rng(seed)
    return [
        {
            "image_id": 10 + i,
            "category_id": 1,
            "bbox": [10 + abs(generator.normal(0, shift)), 10, 40, 40],
            "score": generator.uniform(),
        }
        for i in range(IMAGES)
    ]


def average_precision(evaluation, weights=None):
    return evaluation.average_precision(weights, ("AP",)).averages["AP"]


# --- seeds


def test_finished_runs_are_the_pool_and_the_others_are_counted(tool, tmp_path):
    found = tool.read_pool(write_comparison(tmp_path, [20.0, None, 22.0]), None, "AP50")
    assert (found.arm, found.values, found.failed) == ("FL", (40.0, 44.0), 1)
    assert found.std_of_differences == pytest.approx(np.sqrt(2) * np.std([40, 44], ddof=1))


def test_with_several_arms_one_must_be_chosen(tool, tmp_path):
    folder = write_comparison(tmp_path, [20.0, 21.0], arms=("FL", "CE"))
    with pytest.raises(ValueError, match="--arm: FL, CE"):
        tool.read_pool(folder, None, "AP")
    assert tool.read_pool(folder, "CE", "AP").arm == "CE"
    with pytest.raises(ValueError, match="no arm is named 'OHEM'"):
        tool.read_pool(folder, "OHEM", "AP")


def test_no_run_is_in_two_arms(tool, monkeypatch):
    values, seen = np.arange(24.0), []
    real = tool.verdicts

    def record(results, reference):
        seen.append([value for arm in results.values() for value in arm.values()])
        return real(results, reference)

    monkeypatch.setattr(tool, "verdicts", record)
    tool.count_seed_alarms(values, 6, 3, 20, np.random.default_rng(0))
    assert all(len(set(drawn)) == 24 for drawn in seen)
    assert len({tuple(drawn) for drawn in seen}) == 20


def test_too_few_runs_give_no_rate(tool):
    generator = np.random.default_rng(0)
    assert tool.count_seed_alarms(np.arange(11.0), 6, 1, 5, generator) is None
    assert tool.count_seed_alarms(np.arange(12.0), 6, 1, 5, generator) is not None
    assert tool.count_seed_alarms(np.arange(23.0), 6, 3, 5, generator) is None


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 8, 10])
def test_false_alarms_of_normal_seeds_are_5_in_100(tool, n):
    generator = np.random.default_rng(n)
    values = pool(tool).values
    few, _ = tool.count_seed_alarms(values, n, 1, 200, generator)
    many, sign_flips = tool.count_seed_alarms(values, n, 1, 2000, generator)
    assert few.rate == pytest.approx(0.05, abs=0.02)
    assert many.rate == pytest.approx(0.05, abs=0.015)
    assert 0.02 < sign_flips.rate < 0.06


def test_false_alarms_of_three_arms_with_holm_are_no_more(tool):
    found, _ = tool.count_seed_alarms(pool(tool).values, 6, 3, 1000, np.random.default_rng(0))
    assert 0.02 < found.rate < 0.06


@pytest.mark.slow
def test_simulated_power_is_that_of_the_formula(tool):
    runs = pool(tool)
    for n, effect in ((6, 0.5), (10, 1.0), (16, 0.6)):
        found = tool.measure_power(runs, n, effect, 1000, np.random.default_rng(n))
        assert found.found.rate == pytest.approx(found.expected, abs=0.05)
        assert 0.1 < found.expected < 0.95


def test_a_run_is_never_paired_with_itself(tool, monkeypatch):
    seen, real = [], tool.verdicts

    def record(results, reference):
        seen.append((results["arm"], results["reference"]))
        return real(results, reference)

    monkeypatch.setattr(tool, "verdicts", record)
    runs = tool.Pool("FL", "AP", (30.0, 31.0, 32.0), 0, ())
    tool.measure_power(runs, 6, 0.5, 20, np.random.default_rng(0))
    pairs = [(arm[i] - 0.5, reference[i]) for arm, reference in seen for i in range(6)]
    assert all(first != second for first, second in pairs)
    assert len(set(pairs)) == 6  # every pair of different runs occurs


def test_a_rate_has_the_exact_binomial_interval(tool):
    rate = tool.Rate("seeds", 6, 200, 10)
    assert rate.interval == pytest.approx((0.0242, 0.0900), abs=1e-4)  # Clopper and Pearson


# --- images


def test_an_evaluation_on_drawn_images_is_one_on_copies_of_them(tool, tmp_path):
    evaluation = evaluate(write_data_set(tmp_path), detections(0))
    same = tool.ResampledImages(evaluation, np.arange(IMAGES))
    assert average_precision(same) == average_precision(evaluation)
    drawn = np.random.default_rng(0).integers(IMAGES, size=IMAGES)
    copies = np.bincount(drawn, minlength=IMAGES)
    resampled = tool.ResampledImages(evaluation, drawn)
    assert average_precision(resampled) == average_precision(evaluation, copies)
    slot = np.zeros(IMAGES)
    slot[3] = 1
    image = (np.arange(IMAGES) == drawn[3]).astype(float)
    assert average_precision(resampled, slot) == average_precision(evaluation, image)


def test_swapping_keeps_the_detections_of_an_image_together(tool, tmp_path):
    truth, runs = write_data_set(tmp_path), [detections(0), detections(1)]
    sides = set()
    for pair in tool.swapped_pairs(truth, runs, 5, np.random.default_rng(0)):
        found = [evaluation.detections for evaluation in pair]
        scores = [run.score[run.image.argsort()] for run in found]
        for i in range(IMAGES):
            assert {s[i] for s in scores} == {run[i]["score"] for run in runs}
            sides.add(scores[0][i] == runs[0][i]["score"])
    assert sides == {True, False}


@pytest.mark.slow
def test_false_alarms_over_images_are_few_and_a_better_run_is_always_seen(tool, tmp_path):
    truth = write_data_set(tmp_path)
    runs = [detections(seed) for seed in range(3)]
    evaluations = [evaluate(truth, run) for run in runs]
    generator = np.random.default_rng(0)
    for pairs in (
        tool.resampled_pairs(evaluations, 40, generator),
        tool.swapped_pairs(truth, runs, 40, generator),
    ):
        found = tool.count_image_alarms("images", pairs, 100, "AP")
        assert (found.trials, found.n) == (40, IMAGES)
        assert found.rate < 0.2  # of 40, on 24 images
    better = evaluate(truth, detections(0, shift=1.0))
    found = tool.count_image_alarms("images", iter([(better, evaluations[0])] * 3), 100, "AP")
    assert found.rate == 1


def test_an_empty_ground_truth_is_an_error(tool, tmp_path):
    evaluation = evaluate(write_data_set(tmp_path), detections(0))
    with pytest.raises(ValueError, match="APl is not defined"):
        tool.count_image_alarms("images", iter([(evaluation, evaluation)]), 10, "APl")


# --- what is written


def run(tool, tmp_path, *more):
    few = ["--comparisons", "20", "--seeds", "6", "--power-seeds", "6", "10"]
    return tool.main([*few, "--output", str(tmp_path / "out"), *map(str, more)])


@pytest.mark.slow
def test_one_command_writes_numbers_table_figures_and_page(tool, tmp_path, capsys):
    values = [*np.random.default_rng(0).normal(30, 1, 24), None]
    folder = write_comparison(tmp_path / "runs", values)
    truth = write_data_set(tmp_path)
    for i, part in enumerate(sorted(folder.glob("FL-*"))):
        (part / "inference").mkdir()
        file = part / "inference" / "coco_instances_results.json"
        file.write_text(json.dumps(detections(i)))
    page = tmp_path / "page.md"
    page.write_text(MARKS)
    images = ["--ground-truth", truth, "--image-comparisons", 4, "--replicates", 20]
    assert run(tool, tmp_path, "--runs", folder, *images, "--page", page) == 0

    written = json.loads((tmp_path / "out" / "calibration.json").read_text())
    whats = [alarm["what"] for alarm in written["alarms"]]
    assert whats == [
        "seeds",
        "seeds, sign-flip test",
        "seeds, 3 arms",
        "resampled images",
        "swapped runs",
    ]
    assert (written["pool"]["failed"], len(written["pool"]["values"])) == (1, 24)
    assert [point["n"] for point in written["power"]] == [6, 10]
    table = (tmp_path / "out" / "calibration.md").read_text()
    assert table == capsys.readouterr().out
    assert "24 runs of FL" in table
    assert table.strip() in page.read_text()
    assert "](out/power.png)" in page.read_text()
    first = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert set(first) == {"calibration.json", "calibration.md", "power.svg", "power.png"}
    assert run(tool, tmp_path, "--runs", folder, *images, "--page", page) == 0
    assert first == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}


def test_too_few_runs_are_reported(tool, tmp_path, capsys):
    folder = write_comparison(tmp_path / "runs", [30.0, 31.0, 32.5])
    assert run(tool, tmp_path, "--runs", folder) == 0
    assert "skipped: 1 x 6 seeds require 12 runs" in capsys.readouterr().err


def test_one_run_alone_calibrates_the_bootstrap(tool, tmp_path):
    truth, file = write_data_set(tmp_path), tmp_path / "detections.json"
    file.write_text(json.dumps(detections(0)))
    options = ["--ground-truth", truth, "--image-comparisons", 4, "--replicates", 20]
    assert run(tool, tmp_path, "--detections", file, *options) == 0
    written = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert [alarm["what"] for alarm in written["alarms"]] == ["resampled images"]
    assert written["pool"] is None


def test_the_values_of_a_calibration_are_judged_again(tool, tmp_path):
    earlier = ROOT / "docs" / "images" / "calibration" / "calibration.json"
    few = ["--seeds", 6, "--comparisons", 50, "--power-seeds", 6]
    assert run(tool, tmp_path, "--again", earlier, *few) == 0
    written = json.loads((tmp_path / "out" / "calibration.json").read_text())
    before = json.loads(earlier.read_text())
    assert written["pool"] == before["pool"]
    of_images = [a for a in before["alarms"] if not a["what"].startswith("seeds")]
    assert len(of_images) == 2
    assert written["alarms"][-2:] == of_images
    assert {a["trials"] for a in written["alarms"][:-2]} == {50}


def test_designs_are_simulated_and_tabled(tool, tmp_path, monkeypatch, capsys):
    import simulated_designs

    monkeypatch.setattr(simulated_designs, "SETTINGS", ((1, 4.0), (3, 4.0)))
    page = tmp_path / "page.md"
    page.write_text(f"<!-- designs: tools/{tool.TOOL}.py -->\n<!-- end of designs -->\n")
    assert run(tool, tmp_path, "--designs", "--trials", 400, "--page", page) == 0
    rows = json.loads((tmp_path / "out" / "designs.json").read_text())
    assert [row["arms"] for row in rows[::2]] == [1, 3]
    for row in rows:
        assert max(row["alarms"].values()) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
        assert row["power"]["normal"] > 0.7
        assert row["runs"][2] <= (row["arms"] + 1) * row["design"]["looks"][-1]
    assert "real runs" in page.read_text()


def test_unplanned_looks_are_simulated_and_tabled(tool, tmp_path, capsys):
    import simulated_extensions

    # Two looks at 6 and 6 seeds are one
    assert simulated_extensions.false_alarms((6, 6), 4000) == pytest.approx(0.05, abs=0.011)
    # A look at twice the seeds: the error rate of two looks at a level of .05 each is .083
    # (Armitage, McPherson, Rowe 1969) for a known standard deviation
    assert simulated_extensions.false_alarms((200, 400), 4000) == pytest.approx(0.083, abs=0.014)
    assert simulated_extensions.anytime_alarms(20, 400) < 0.05
    page = tmp_path / "page.md"
    page.write_text(f"<!-- extensions: tools/{tool.TOOL}.py -->\n<!-- end of extensions -->\n")
    assert run(tool, tmp_path, "--extensions", "--trials", 400, "--page", page) == 0
    assert "| 6, then 34" in page.read_text()
    assert "and 10 by a planned test" in capsys.readouterr().out


def test_real_noise_has_unit_variance_and_comes_from_runs_above_20_ap(tool):
    import simulated_designs

    noise, count = simulated_designs.real_noise(ROOT / "docs" / "catalogue.json")
    drawn = noise(np.random.default_rng(0), (200_000,))
    assert count >= 90
    assert (drawn.mean(), drawn.std()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))


def test_a_missing_comparison_is_one_line_and_no_file(tool, tmp_path, capsys):
    assert run(tool, tmp_path, "--runs", tmp_path) == 2
    assert "holds no comparison" in capsys.readouterr().err
    assert run(tool, tmp_path, "--runs", write_comparison(tmp_path / "r", [3.0, None])) == 2
    assert "1 runs of 'FL'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        run(tool, tmp_path, "--detections", "a.json")
    with pytest.raises(SystemExit):
        run(tool, tmp_path)


def test_the_seeds_in_the_page_are_those_of_the_formula(tool):
    page = (ROOT / "docs" / "statistics.md").read_text()
    assert tool.fill(page, "seeds", tool.TOOL, tool.to_seeds_table()) == page
    assert tool.fill(page, "calibration", tool.TOOL, "") != page
