"""Tests of the recipe: what the runs' own files say that they were made of."""

import json

import pytest

from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.report.recipe_table import recipe_table
from focal_plugin.config import get_cfg
from focal_plugin.config_file import find_config_file

from ..fake_comparison import FakeArm, folder_of, write_comparison


@pytest.fixture
def comparison(tmp_path):
    """Provide a comparison whose runs have complete configs, and one of a larger batch."""
    made = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()})
    for run in made.runs:
        cfg = get_cfg()
        cfg.merge_from_file(str(find_config_file("Shapes-Detection/retinanet_small.yaml")))
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("fake_train",), ("fake_val",)
        cfg.SOLVER.IMS_PER_BATCH = 32 if run.arm == "FL" else 16
        (tmp_path / run.id / "config.yaml").write_text(cfg.dump())
        file = tmp_path / run.id / "env.json"
        started = f"2026-11-{29 + run.seed // 2}T23:59:00+00:00"
        file.write_text(json.dumps({**json.loads(file.read_text()), "started": started}))
    return tmp_path, made


def recipe_of(folder):
    return {each.name: each.values for each in summarize(folder, replicates=0).recipe}


def test_the_recipe_is_that_of_the_configs_and_environments(comparison):
    found = recipe_of(comparison[0])
    values = {name: next(iter(of)) for name, of in found.items() if len(of) == 1}
    cfg = get_cfg()
    cfg.merge_from_file(str(find_config_file("Shapes-Detection/retinanet_small.yaml")))
    assert values["training data"] == "fake_train: 8 images, 24 objects, 3 classes"
    assert values["test data"].startswith("fake_val: 8 images")
    assert values["learning rate"].startswith(f"{cfg.SOLVER.BASE_LR:g}, SGD with momentum 0.9")
    assert f"{cfg.SOLVER.MAX_ITER} iterations" in values["schedule"]
    assert f"warm-up of {cfg.SOLVER.WARMUP_ITERS}" in values["schedule"]
    assert f"scores from {cfg.MODEL.RETINANET.SCORE_THRESH_TEST:g}" in values["evaluation"]
    assert str(cfg.INPUT.MIN_SIZE_TEST) in values["input"]
    assert "aspect ratios 0.5 1 2" in values["anchors"]
    assert values["hardware"] == "cpu, 1 thread, Linux"
    assert values["software"] == "torch 2.11"
    assert values["date"] == "2026-11-29 to 2026-11-30"


def test_what_differs_names_its_arms(comparison):
    folder, _ = comparison
    assert recipe_of(folder)["batch"] == {"16 images": ("CE",), "32 images": ("FL",)}
    table = recipe_table(summarize(folder, replicates=0))
    assert ("batch", "16 images (CE); 32 images (FL)") in table.rows


def test_a_run_that_recorded_little_has_a_short_recipe(comparison):
    folder, made = comparison
    for run in made.runs:
        path = folder_of(folder, made, run.arm, run.seed)
        (path / "config.yaml").write_text("SOLVER: {IMS_PER_BATCH: 4}\n")
        (path / "env.json").unlink()
    assert recipe_of(folder) == {"batch": {"4 images": ("CE", "FL")}}


def test_without_a_started_run_there_is_no_recipe(tmp_path):
    missing = FakeArm(without={1: "missing"})
    write_comparison(tmp_path, {"CE": missing, "FL": missing}, (1,))
    summary = summarize(tmp_path, replicates=0)
    assert (summary.recipe, recipe_table(summary)) == ((), None)
