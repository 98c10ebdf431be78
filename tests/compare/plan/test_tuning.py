"""Tests of the trials of a spec: grid, data, hashes, and the runs at the best settings."""

import hashlib
import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from focal_plugin.compare.plan.comparison import Comparison
from focal_plugin.compare.plan.setting import EQUAL, Setting
from focal_plugin.compare.plan.spec import best_runs, load_spec, read_plan
from focal_plugin.compare.plan.tuning_split import write_splits

from ...conftest import ROOT
from ...each import each
from .trained_config import as_trained

SHAPES = ROOT / "configs" / "Shapes-Detection"
RETINANET, RCNN = (f"{SHAPES}/{name}_small.yaml" for name in ("retinanet", "faster_rcnn"))
DENSE, ROI, RPN = (f"MODEL.FOCAL.{stage}CLS_LOSS.WEIGHT" for stage in ("", "ROI_HEADS.", "RPN."))
RATES = {"learning_rates": {"factors": [0.5, 1, 2]}}


@pytest.fixture
def write(tmp_path):
    """Provide a function that writes a spec whose arms train on twenty images of five classes."""
    write_data(tmp_path)

    def write(arms=None, name="spec.yaml", folder=tmp_path, **content):
        opts = ["DATASETS.TRAIN", ["mine"]] if "opts" not in content else content.pop("opts")
        given = {"base": RETINANET, "seeds": 2, "datasets": {"mine": "mine.json:images"}, **content}
        file = folder / name
        file.write_text(json.dumps({**given, "arms": arms or {"a": []}, "opts": opts}))
        return file

    return write


def write_data(folder, name="mine", classes=5):
    """Write a COCO file of twenty images with one object each; images 3 and 17 are copies."""
    (folder / "images").mkdir(exist_ok=True)
    categories = [{"id": i, "name": f"class {i}"} for i in range(classes)]
    images, annotations = [], []
    for i in range(20):
        file = folder / "images" / f"{name}{i}.png"
        file.write_bytes(f"{name} {3 if i == 17 else i}".encode())
        images.append({"id": i, "file_name": file.name, "width": 9, "height": 9, "night": i % 2})
        box = {"bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
        annotations.append({"id": i + 1, "image_id": i, "category_id": i % classes, **box})
    coco = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
    (folder / f"{name}.json").write_text(json.dumps(coco))


def value(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def contents(plan):
    """Return training set -> content of both parts."""
    return {
        name: tuple(json.loads(part.content) for part in split.parts)
        for name, split in plan.splits.items()
    }


# --- the grid


def test_every_arm_is_tried_at_every_factor_of_its_own_rate(write):
    comparison = load_spec(write({"a": [], "b": ["SOLVER.BASE_LR", 0.2]}, **RATES))
    trials = comparison.of_role("tuning")
    assert len(comparison.of_role("equal")) == 4
    tried = [(run.arm, run.setting, as_trained(run).SOLVER.BASE_LR) for run in trials[:6]]
    rates = {"a": (0.025, 0.05, 0.1), "b": (0.1, 0.2, 0.4)}
    settings = [Setting(0.5), EQUAL, Setting(2.0)]
    assert tried == [
        (arm, setting, rate)
        for arm, of_arm in rates.items()
        for setting, rate in zip(settings, of_arm, strict=True)
    ]
    assert [run.seed for run in trials] == [101] * 6 + [102] * 6 + [103] * 6
    assert len({run.id for run in comparison.runs}) == 22


def test_with_both_keys_every_pair_of_factors_is_tried(write):
    weights = {"factors": [1, 4], "seeds": [7, 8, 9]}
    spec = write({"a": [DENSE, 3]}, loss_weights=weights, learning_rates={"factors": [1, 2]})
    comparison = load_spec(spec)
    trials = comparison.of_role("tuning")
    tried = [(as_trained(r).SOLVER.BASE_LR, value(as_trained(r), DENSE)) for r in trials[:4]]
    assert tried == [(0.05, 3.0), (0.1, 3.0), (0.05, 12.0), (0.1, 12.0)]
    assert [run.setting for run in trials[:4]] == list(comparison.grid.settings)
    assert [run.name for run in trials[::4]] == [f"a seed {seed}" for seed in (7, 8, 9)]
    assert trials[3].name == "a lr x 2, weight x 4 seed 7"
    origin = comparison.origins["a"]
    assert (origin.base_lr, origin.weight_key, origin.weight) == (0.05, DENSE, 3.0)


@pytest.mark.parametrize(
    ("base", "key", "expected"),
    [(RETINANET, None, DENSE), (RCNN, None, ROI), (RCNN, RPN, RPN)],
    ids=["one stage", "two stages", "key"],
)
def test_the_weight_is_that_of_the_classification_loss_unless_a_key_is_given(
    write, base, key, expected
):
    weights = {"factors": [0.5], **({"key": key} if key else {})}
    comparison = load_spec(write(base=base, loss_weights=weights))
    assert comparison.origins["a"].weight_key == expected
    cfg = as_trained(comparison.of_role("tuning")[0])
    assert {k: value(cfg, k) for k in (DENSE, ROI, RPN)} == {
        **dict.fromkeys((DENSE, ROI, RPN), 1.0),
        expected: 0.5,
    }


@pytest.mark.parametrize(
    ("base", "opts", "key", "message"),
    [
        (RCNN, ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], None, f"read {ROI} or {DENSE}; name"),
        (RCNN, [], DENSE, f"the detector does not read {DENSE}"),
        (RETINANET, ["MODEL.FOCAL.BAG_LOSS.NAME", "FreeAnchorLoss"], None, "does not read"),
        (RETINANET, [DENSE, 0], None, f"{DENSE} must be a number > 0, got 0.0"),
        (RETINANET, [], "MODEL.FOCAL.CLS_LOS.WEIGHT", "did you mean 'MODEL.FOCAL.CLS_LOSS.WEIGHT'"),
        (RETINANET, [], "MODEL.WEIGHTS", "does not read MODEL.WEIGHTS"),
    ],
    ids=["stock heads", "other stage", "loss of bags", "no weight", "typo", "text"],
)
def test_an_arm_without_the_weight_is_named(write, base, opts, key, message):
    weights = {"factors": [0.5], **({"key": key} if key else {})}
    spec = write({"my arm": opts}, base=base, loss_weights=weights)
    with pytest.raises(ValueError, match=r"spec\.yaml: arm 'my arm': loss_weights: ") as caught:
        load_spec(spec)
    assert message in str(caught.value)


def test_a_weight_is_not_read_if_only_learning_rates_are_tuned(write):
    opts = ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"]
    comparison = load_spec(write({"a": opts}, base=RCNN, **RATES))
    assert comparison.origins["a"].weight_key == ""


def test_the_budget_counts_tuning_and_that_every_arm_may_be_trained_again(write):
    def spec(most):
        budget = {"iterations": 10, "total_iterations": most}
        return write({"a": [], "b": ["SOLVER.BASE_LR", 0.2]}, seeds=3, budget=budget, **RATES)

    assert len(load_spec(spec(300)).runs) == 24
    with pytest.raises(ValueError, match="60 at the settings of the configs, 180 to tune them, 60"):
        load_spec(spec(299))


def test_a_comparison_with_trials_survives_its_file(write, tmp_path):
    comparison = load_spec(write(loss_weights={"factors": [1, 4]}, **RATES))
    comparison.write(tmp_path / "runs")
    assert Comparison.read(tmp_path / "runs") == comparison


def test_the_comparison_of_an_earlier_version_is_read_without_its_trials(write, tmp_path):
    load_spec(write(**RATES)).write(tmp_path)
    file = tmp_path / "comparison.json"
    content = json.loads(file.read_text())
    del content["grid"], content["origins"]
    for run in content["runs"]:
        run["lr_factor"] = run.pop("setting")["lr_factor"]
    file.write_text(json.dumps({**content, "lr_factors": [0.5, 1.0, 2.0]}))
    comparison = Comparison.read(tmp_path)
    assert (comparison.grid, len(comparison.of_role("tuning"))) == (None, 9)


@each(
    ("content", "message"),
    [
        ({"learning_rates": {"seeds": [7, 8, 9]}}, "learning_rates must have factors"),
        ({"learning_rates": {}}, "learning_rates must have factors"),
        ({"learning_rates": {"factors": [0]}}, "learning_rates: factors must be numbers > 0"),
        ({"loss_weights": {"factors": [-1]}}, "loss_weights: factors must be numbers > 0"),
        ({"learning_rates": {"factors": [1e999]}}, "> 0"),
        ({"learning_rates": {"factors": []}}, "> 0"),
        ({"learning_rates": {"factors": [1, 1.0]}}, "duplicate factor"),
        (
            {"learning_rates": {"factors": [1], "seeds": [7, 8]}},
            "at least 3 trial seeds, got [7, 8]: a choice by fewer follows the noise between seeds",
        ),
        ({"learning_rates": {"factors": [1], "seeds": 3}}, "seed 1 is one of seeds"),
        ({"seeds": 101, **RATES}, "learning_rates: seed 101 is one of seeds"),
        (
            {
                "learning_rates": {"factors": [1], "seeds": [7, 8, 9]},
                "loss_weights": {"factors": [1], "seeds": [7, 8, 10]},
            },
            "learning_rates and loss_weights must have the same seeds",
        ),
        ({"loss_weights": {"factors": [1], "key": "SOLVER.BASE_LR"}}, "config key of a weight"),
        ({"loss_weights": {"factors": [1], "key": 3}}, "config key of a weight, got 3"),
        ({"loss_weights": {"factors": [1], "key": ""}}, "config key of a weight, got ''"),
        ({"seeds": {"looks": [4, 6]}, **RATES}, "requires a fixed number of seeds"),
        (
            {"seeds": 9000, "learning_rates": {"factors": [1], "seeds": list(range(9001, 11000))}},
            "arms, seeds and trials make 10999 runs, over 10000",
        ),
        ({"loss_weights": 4}, "loss_weights must be a mapping, got 4"),
        ({"learning_rates": {"factor": [1]}}, "did you mean 'factors'?"),
        ({"learning_rates": {"factors": [1], "key": DENSE}}, "no key of learning_rates is named"),
    ],
)
def test_a_malformed_grid_is_refused(write, content, message):
    with pytest.raises((ValueError, KeyError)) as caught:
        load_spec(write(**content))
    assert message in str(caught.value)


def test_the_same_seeds_may_be_given_twice_in_any_order(write):
    axes = {"factors": [1, 2], "seeds": [8, 9, 7]}
    grid = load_spec(write(learning_rates=axes, loss_weights={**axes, "seeds": [7, 8, 9]})).grid
    assert grid.seeds == (8, 9, 7)


# --- the data of the trials


def test_trials_train_on_a_part_of_the_training_set_and_are_tested_on_the_rest(write, tmp_path):
    plan = read_plan(write(**RATES))
    given = json.loads((tmp_path / "mine.json").read_text())
    train, val = contents(plan)["mine"]
    ids = [{image["id"] for image in part["images"]} for part in (train, val)]
    assert ids[0] | ids[1] == set(range(20))
    assert not ids[0] & ids[1]
    assert (len(ids[0]), len(ids[1])) == (15, 5)  # four images of each of five classes
    assert {x["category_id"] for x in val["annotations"]} == {0, 1, 2, 3, 4}
    assert ({3, 17} <= ids[0]) or ({3, 17} <= ids[1])  # copies of one image
    for part, of_part in zip((train, val), ids, strict=True):
        for field in ("images", "annotations"):
            key = "id" if field == "images" else "image_id"
            assert part[field] == [x for x in given[field] if x[key] in of_part]
        assert {part["info"] == {}, part["categories"] == given["categories"]} == {True}
    trial = plan.comparison.of_role("tuning")[0]
    cfg = as_trained(trial)
    assert cfg.DATASETS.TRAIN == ("mine_trials_train",)
    assert cfg.DATASETS.TEST == ("mine_trials_val",)
    split = plan.splits["mine"]
    assert (split.train.images, split.val.images) == (15, 5)
    assert cfg.SOLVER.MAX_ITER == trial.iterations == plan.comparison.runs[0].iterations


def test_the_files_of_a_split_are_in_the_folder_of_the_comparison(write, tmp_path):
    plan = read_plan(write(**RATES))
    assert not (tmp_path / "tuning").exists()
    output = tmp_path / "out"
    write_splits(plan.splits.values(), output)
    trial = plan.comparison.of_role("tuning")[0]
    files = [output / "tuning" / "mine" / f"{part}.json" for part in ("train", "val")]
    assert trial.datasets_in(output) == tuple(
        f"mine_trials_{part}={file}:{tmp_path}/images"
        for part, file in zip(("train", "val"), files, strict=True)
    )
    assert [json.loads(file.read_text()) for file in files] == list(contents(plan)["mine"])
    given = plan.comparison.runs[0].datasets
    assert plan.comparison.runs[0].datasets_in(output) == given
    before = [file.stat().st_ino for file in files]
    files[1].write_text("{}")
    write_splits(plan.splits.values(), output)
    assert files[0].stat().st_ino == before[0]  # another command may read it
    assert json.loads(files[1].read_text()) == contents(plan)["mine"][1]


def test_the_hash_of_a_trial_is_that_of_its_config_and_of_the_content_of_its_data(write):
    plan = read_plan(write(**RATES))
    trial = plan.comparison.of_role("tuning")[0]
    cfg = as_trained(trial)
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = "", "auto"
    digests = {
        part.dataset: hashlib.sha256(part.content).hexdigest() for part in plan.splits["mine"].parts
    }
    content = json.dumps([cfg, digests], sort_keys=True)
    assert trial.config_hash == hashlib.sha256(content.encode()).hexdigest()


def test_trials_elsewhere_are_the_same_and_those_of_other_annotations_are_not(write, tmp_path):
    here = load_spec(write(**RATES))
    there = tmp_path / "there"
    there.mkdir()
    write_data(there)
    moved = load_spec(write(folder=there, **RATES))
    assert [run.id for run in moved.runs] == [run.id for run in here.runs]
    assert moved.runs[-1].datasets != here.runs[-1].datasets
    file = there / "mine.json"
    file.write_text(file.read_text().replace('"night": 1', '"night": 2'))
    changed = load_spec(there / "spec.yaml")
    assert not {run.id for run in changed.runs} & {run.id for run in here.runs}


def test_annotations_of_the_test_set_change_no_trial(write, tmp_path):
    write_data(tmp_path, "tested")
    sets = {"mine": "mine.json:images", "tested": "tested.json:images"}
    opts = ["DATASETS.TRAIN", ["mine"], "DATASETS.TEST", ["tested"]]
    before = load_spec(write(datasets=sets, opts=opts, **RATES))
    file = tmp_path / "tested.json"
    file.write_text(file.read_text().replace('"area": 25', '"area": 24'))
    after = load_spec(tmp_path / "spec.yaml")
    assert [r.id for r in before.of_role("tuning")] == [r.id for r in after.of_role("tuning")]
    assert before.runs[0].id != after.runs[0].id


def test_each_of_several_training_sets_is_split(write, tmp_path):
    write_data(tmp_path, "more")
    sets = {"mine": "mine.json:images", "more": "more.json:images"}
    arms = {
        "both": ["DATASETS.TRAIN", ["mine", "more"]],
        "more": ["DATASETS.TRAIN", ["more"]],
    }
    plan = read_plan(write(arms, datasets=sets, opts=[], **RATES))
    both, more = plan.comparison.of_role("tuning")[:4:3]
    assert as_trained(both).DATASETS.TRAIN == ("mine_trials_train", "more_trials_train")
    assert as_trained(both).DATASETS.TEST == ("mine_trials_val", "more_trials_val")
    assert as_trained(more).DATASETS.TRAIN == ("more_trials_train",)
    assert [len(run.datasets) for run in (both, more)] == [4, 2]
    assert list(plan.splits) == ["mine", "more"]


def test_ignore_regions_stay_ignore_regions_in_both_parts(write, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    write_data(tmp_path, classes=6)
    plan = read_plan(write(ignore_categories=["class 5"], **RATES))
    equal, trial = plan.comparison.runs[0], plan.comparison.of_role("tuning")[0]
    assert (equal.ignore_categories, trial.ignore_categories) == (("class 5",), ())
    given = json.loads((tmp_path / "mine.json").read_text())["annotations"]
    regions = {x["id"] for x in given if x["category_id"] == 5}
    parts = contents(plan)["mine"]
    for part in parts:
        assert [category["id"] for category in part["categories"]] == [0, 1, 2, 3, 4]
    found = [x for part in parts for x in part["annotations"] if x["id"] in regions]
    assert {(x["iscrowd"], x["every_class"]) for x in found} == {(1, 1)}
    assert len(found) == len(regions) == 3


def test_a_training_set_that_cannot_be_split_is_named(write):
    DatasetCatalog.register("own_loader", lambda: [])
    MetadataCatalog.get("own_loader").set(thing_classes=[f"class {i}" for i in range(5)])
    try:
        with pytest.raises(
            ValueError,
            match="arm 'a': the trials need a split of the training set "
            "own_loader: the dataset own_loader cannot be split",
        ):
            load_spec(write(datasets={}, opts=["DATASETS.TRAIN", ["own_loader"]], **RATES))
    finally:
        DatasetCatalog.remove("own_loader")
        MetadataCatalog.remove("own_loader")


def test_a_training_set_with_another_evaluation_is_refused(write, tmp_path):
    DatasetCatalog.register("federated", lambda: [])
    MetadataCatalog.get("federated").set(
        json_file=str(tmp_path / "mine.json"),
        image_root=str(tmp_path / "images"),
        evaluator_type="lvis",
        thing_classes=[f"class {i}" for i in range(5)],
    )
    try:
        with pytest.raises(ValueError, match="the evaluation of federated is that of lvis"):
            load_spec(write(datasets={}, opts=["DATASETS.TRAIN", ["federated"]], **RATES))
    finally:
        DatasetCatalog.remove("federated")
        MetadataCatalog.remove("federated")


def test_precomputed_proposals_are_refused(write):
    opts = ["DATASETS.TRAIN", ["mine"], "MODEL.LOAD_PROPOSALS", True]
    with pytest.raises(ValueError, match="arm 'a': trials cannot use the proposals"):
        load_spec(write(base=RCNN, opts=opts, **RATES))
    load_spec(write(base=RCNN, opts=opts))


# --- the best runs


def test_an_arm_is_trained_again_at_its_best_setting_unless_that_is_its_own(write):
    names = {name: {"arm": name} for name in ("ce", "fl", "ghm", "vfl")}
    spec = write(names, loss_weights={"factors": [1, 4]}, **RATES)
    comparison = load_spec(spec)
    best = {"ce": Setting(2.0, 4.0), "fl": EQUAL, "ghm": Setting(0.5)}
    runs = best_runs(spec, comparison, best)
    assert [(run.arm, run.seed) for run in runs] == [("ce", 1), ("ghm", 1), ("ce", 2), ("ghm", 2)]
    configs = [as_trained(run) for run in runs]
    assert [cfg.SOLVER.BASE_LR for cfg in configs] == [0.1, 0.025, 0.1, 0.025]
    assert [value(cfg, DENSE) for cfg in configs] == [4.0, 1.0, 4.0, 1.0]
    assert {cfg.DATASETS.TRAIN for cfg in configs} == {("mine",)}
    assert {cfg.DATASETS.TEST for cfg in configs} == {("focal_shapes_val",)}
    assert {run.role for run in runs} == {"best"}
    more = best_runs(spec, comparison.with_runs(runs), {"ce": Setting(2.0, 4.0)})
    assert more == (runs[0], runs[2])


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": 3},
        {"learning_rates": {"factors": [0.5, 1]}},
        {"learning_rates": {"factors": [0.5, 1, 2], "seeds": [7, 8, 9]}},
        {"arms": {"a": ["SOLVER.BASE_LR", 0.5]}},
    ],
    ids=["seeds", "factors", "trial seeds", "arm"],
)
def test_a_spec_that_was_changed_meanwhile_has_no_best_runs(write, change):
    comparison = load_spec(write(**RATES))
    changed = write(**{**RATES, **change})
    with pytest.raises(ValueError, match="has changed since"):
        best_runs(changed, comparison, {"a": Setting(2.0)})


@pytest.mark.parametrize(
    ("best", "error"),
    [({"a": Setting(3.0)}, ValueError), ({"b": Setting(2.0)}, KeyError)],
    ids=["setting", "arm"],
)
def test_a_best_setting_is_one_of_the_grid_and_of_an_arm(write, best, error):
    spec = write(**RATES)
    with pytest.raises(error, match=r"grid|'b'"):
        best_runs(spec, load_spec(spec), best)
