import hashlib
import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from focal_plugin import get_cfg
from focal_plugin.compare.plan import resolved_config
from focal_plugin.compare.plan.spec import load_spec
from focal_plugin.compare.plan.trainer_flags import TRAINER_FLAGS
from focal_plugin.engine.command_line import argument_parser

from ...conftest import ROOT
from .trained_config import as_trained

SHAPES = ROOT / "configs" / "Shapes-Detection"
BASE = f"base: {SHAPES}/retinanet_small.yaml\n"
FIXED = ("MODEL.FOCAL.INIT", "by_name", "MODEL.FOCAL.DIAGNOSTICS.PERIOD", "20")


@pytest.fixture
def write(tmp_path):
    def write(text, name="spec.yaml"):
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


@pytest.fixture
def dataset(tmp_path):
    """Provide `datasets` of a spec: a COCO json with the five classes of the models."""
    (tmp_path / "images").mkdir()
    categories = [{"id": i, "name": f"class {i}"} for i in range(5)]
    coco = {"images": [], "annotations": [], "categories": categories}
    (tmp_path / "mine.json").write_text(json.dumps(coco))
    return "datasets: {mine: mine.json:images}\n"


def arms(*names):
    base = f"{SHAPES}/retinanet_small.yaml"
    return "arms: {" + ", ".join(f"{n}: {{config: {base}, arm: {n}}}" for n in names) + "}\n"


def test_a_spec_may_name_itself_and_else_has_the_name_of_its_file(write):
    text = arms("ce", "fl") + "seeds: 1\n"
    assert load_spec(write(text, "mine.yaml")).name == "mine"
    assert load_spec(write(f"name: 'cells 2'\n{text}")).name == "cells 2"


@pytest.mark.parametrize("name", ["a/b", "..", "''", "2024", "[a]", f"'{'x' * 81}'", r'"a\nb"'])
def test_a_name_that_is_no_folder_is_refused(write, name):
    with pytest.raises(ValueError, match="name "):
        load_spec(write(f"name: {name}\n" + arms("ce") + "seeds: 1\n"))


def refused(write, text, error=ValueError):
    with pytest.raises(error) as caught:
        load_spec(write(text))
    message = str(caught.value)
    assert "spec.yaml" in message
    return message


# --- what becomes of a valid spec


def test_every_arm_and_seed_has_its_own_folder(write):
    comparison = load_spec(write(arms("ce", "fl") + "seeds: [5, 2]"))
    runs = comparison.runs
    names = ["ce seed 5", "fl seed 5", "ce seed 2", "fl seed 2"]
    assert [run.name for run in runs] == names
    assert len({run.id for run in runs}) == 4
    assert [as_trained(run).SEED for run in runs] == [5, 5, 2, 2]
    assert (comparison.name, comparison.seeds, comparison.arms) == ("spec", (5, 2), ("ce", "fl"))


def test_a_number_of_seeds_is_that_many_from_1_on(write):
    assert load_spec(write(arms("fl") + "seeds: 3")).seeds == (1, 2, 3)


def test_the_reference_is_the_first_arm_unless_another_one_is_named(write):
    text = arms("ce", "fl") + "seeds: 1\n"
    assert load_spec(write(text)).reference == "ce"
    assert load_spec(write(text + "reference: fl")).reference == "fl"


def test_an_arm_is_a_name_a_file_options_on_the_base_or_several_of_these(write, tmp_path):
    opts = "[MODEL.RETINANET.FOCAL_LOSS_GAMMA, 0.5]"
    file = tmp_path / "star.yaml"
    file.write_text(
        f"_BASE_: {SHAPES}/retinanet_small.yaml\n"
        "MODEL: {FOCAL: {CLS_LOSS: {NAME: SigmoidFocalStarLoss}}}"
    )
    text = f"""
arms:
  a: {file}
  b: {opts}
  c: {{config: {file}, opts: {opts}}}
  d: []
  e: fl_star
  f: {{arm: [fl_star, box_giou], opts: {opts}}}
seeds: 1
"""
    assert "arms 'a' and 'e' have the same config" in refused(write, BASE + text)
    runs = load_spec(write(BASE + text.replace("  a: ", "  # a: "))).runs
    configs = [as_trained(run) for run in runs]
    assert [cfg.MODEL.RETINANET.FOCAL_LOSS_GAMMA for cfg in configs] == [0.5, 0.5, 2.0, 2.0, 0.5]
    star, focal = "SigmoidFocalStarLoss", "SigmoidFocalLoss"
    names = [cfg.MODEL.FOCAL.CLS_LOSS.NAME for cfg in configs]
    assert names == [focal, star, focal, star, star]
    assert configs[-1].MODEL.FOCAL.BOX_LOSS.NAME == "GIoULoss"


def test_arms_may_be_a_list_of_names_and_of_groups(write):
    text = BASE + "arms: [ce, {group: mining}, {top_k: {arm: top_k, opts: [%s, 64]}}]\nseeds: 1"
    comparison = load_spec(write(text % "MODEL.FOCAL.MINING.NUM_KEEP"))
    assert comparison.arms == ("ce", "ohem", "ohem_1_3", "ssd_3_1", "top_k")
    assert as_trained(comparison.runs[-1]).MODEL.FOCAL.MINING.NUM_KEEP == 64
    (ohem,) = (run for run in comparison.runs if run.arm == "ohem")
    assert as_trained(ohem).MODEL.FOCAL.CLS_LOSS.NAME == "SigmoidCrossEntropyLoss"


def test_config_files_are_relative_to_the_spec(write, tmp_path, monkeypatch):
    (tmp_path / "arm.yaml").write_text(f"_BASE_: {SHAPES}/retinanet_small.yaml\n")
    spec = write("arms: {a: arm.yaml}\nseeds: 1")
    monkeypatch.chdir("/")
    assert load_spec(spec).runs[0].config_file == str(tmp_path / "arm.yaml")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("SOLVER.STEPS", '"(320, 380)"', (320, 380)),
        ("SOLVER.STEPS", "[320, 380]", (320, 380)),
        ("SOLVER.STEPS", "[]", ()),
        ("DATASETS.TRAIN", "[focal_shapes_val]", ("focal_shapes_val",)),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[8, 9], [16, 17]]", [[8, 9], [16, 17]]),
        ("SOLVER.BASE_LR", "1e-3", 0.001),
        ("SOLVER.BASE_LR", "1.0e-7", 1e-7),
        ("MODEL.RETINANET.FOCAL_LOSS_ALPHA", "-1.0", -1.0),
        ("MODEL.FOCAL.RPN.CROWD_THRESH", "null", None),
        ("INPUT.CROP.ENABLED", "yes", True),
        ("MODEL.WEIGHTS", '""', ""),
        ("MODEL.FPN.NORM", '"BN"', "BN"),
    ],
)
def test_an_option_reaches_the_trainer_unchanged(write, key, value, expected):
    (run,) = load_spec(write(f"{BASE}arms: {{a: [{key}, {value}]}}\nseeds: 1")).runs
    node = as_trained(run)
    for part in key.split("."):
        node = node[part]
    assert node == expected
    assert type(node) is type(expected)


def test_opts_apply_to_all_arms(write):
    text = arms("ce", "fl") + "seeds: 1\nopts: [SOLVER.MAX_ITER, 7]"
    runs = load_spec(write(text)).runs
    assert {run.iterations for run in runs} == {7}
    assert {as_trained(run).SOLVER.MAX_ITER for run in runs} == {7}


def test_weights_are_by_name_and_diagnostics_on_unless_the_spec_says_otherwise(write):
    text = arms("fl") + "seeds: 1\n"
    (run,) = load_spec(write(text)).runs
    assert run.opts[-6:] == (*FIXED, "SEED", "1")
    (run,) = load_spec(write(text + "initial_weights: stock\ndiagnostics: 0")).runs
    focal = as_trained(run).MODEL.FOCAL
    assert (focal.INIT, focal.DIAGNOSTICS.PERIOD) == ("stock", 0)


# --- the budget


@pytest.mark.parametrize(
    ("iterations", "steps", "warmup"),
    [
        (400, (320, 380), 50),
        (800, (640, 760), 100),
        (40, (32, 38), 5),
        (3, (2,), 1),
        (1, (), 1),
    ],
)
def test_the_schedule_is_as_long_as_the_budget_in_proportion(write, iterations, steps, warmup):
    text = arms("fl") + f"seeds: 1\nbudget: {{iterations: {iterations}}}"
    (run,) = load_spec(write(text)).runs
    solver = as_trained(run).SOLVER
    scaled = (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS)
    assert scaled == (iterations, steps, warmup)
    assert run.iterations == iterations


def test_a_schedule_without_warm_up_gets_none(write):
    text = "seeds: 1\nbudget: {iterations: 40}\nopts: [SOLVER.WARMUP_ITERS, 0]"
    (run,) = load_spec(write(arms("fl") + text)).runs
    assert as_trained(run).SOLVER.WARMUP_ITERS == 0


def test_runs_that_need_more_than_the_budget_are_refused_before_they_start(write):
    text = arms("ce", "fl") + "seeds: 3\nbudget: {iterations: 10, total_iterations: %d}\n"
    assert len(load_spec(write(text % 60)).runs) == 6
    assert "up to 60 iterations" in refused(write, text % 59)


# --- the hash


def test_the_hash_changes_with_a_key_and_with_the_seed_and_with_no_folder(write, tmp_path):
    text = arms("fl") + "seeds: [1, 2]\n"
    one, seed_2 = load_spec(write(text)).runs
    (lr,) = load_spec(write(arms("fl") + "seeds: [1]\nopts: [SOLVER.BASE_LR, 0.5]")).runs
    (stock,) = load_spec(write(arms("fl") + "seeds: [1]\ninitial_weights: stock")).runs
    hashes = {run.config_hash for run in (one, seed_2, lr, stock)}
    assert len(hashes) == 4
    moved = tmp_path / "moved.yaml"
    moved.write_text(f"_BASE_: {SHAPES}/retinanet_small.yaml\nOUTPUT_DIR: elsewhere\n")
    same = load_spec(write("arms: {fl: moved.yaml}\nseeds: 1")).runs[0]
    assert (same.config_hash, same.id) == (one.config_hash, one.id)


def test_the_hash_is_that_of_the_trained_config(write):
    """The hash of the config in the trainer is equal; a wrong one would resume another run."""
    (run,) = load_spec(write(arms("fl") + "seeds: [3]\nbudget: {iterations: 9}")).runs
    cfg = as_trained(run)
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = "", "auto"
    content = json.dumps([cfg, {}], sort_keys=True)
    assert run.config_hash == hashlib.sha256(content.encode()).hexdigest()


@pytest.mark.parametrize("machine", ["cpu", "cuda"])
def test_a_gpu_does_not_change_the_hash(write, monkeypatch, machine):
    spec = write(arms("fl") + "seeds: 1")
    here = load_spec(spec)

    def get_cfg_there():
        cfg = get_cfg()
        cfg.MODEL.DEVICE = machine
        return cfg

    monkeypatch.setattr(resolved_config, "get_cfg", get_cfg_there)
    assert load_spec(spec) == here


def test_a_device_that_the_spec_chooses_is_part_of_the_hash(write):
    text = arms("fl") + "seeds: 1\n"
    chosen = load_spec(write(text + "opts: [MODEL.DEVICE, cpu]")).runs[0]
    assert chosen.config_hash != load_spec(write(text)).runs[0].config_hash


def test_a_config_file_is_read_once_however_many_arms_and_seeds_there_are(write, monkeypatch):
    """Otherwise planning a large comparison takes minutes."""
    calls = []
    monkeypatch.setattr(resolved_config, "get_cfg", lambda: calls.append(1) or get_cfg())
    assert len(load_spec(write(arms("ce", "fl") + "seeds: 50\n")).runs) == 100
    assert len(calls) == 1  # both arms have the same base


# --- datasets


def test_a_data_set_is_given_to_every_run_and_may_be_named_in_opts(write, dataset, tmp_path):
    text = arms("ce", "fl") + "seeds: 1\nopts: [DATASETS.TEST, [mine]]\n" + dataset
    runs = load_spec(write(text)).runs
    assert {run.datasets for run in runs} == {(f"mine={tmp_path}/mine.json:{tmp_path}/images",)}
    assert as_trained(runs[0]).DATASETS.TEST == ("mine",)


def test_a_data_set_is_not_left_registered(write, dataset):
    load_spec(write(arms("fl") + "seeds: 1\nopts: [DATASETS.TEST, [mine]]\n" + dataset))
    assert "mine" not in DatasetCatalog.list()
    assert "mine" not in MetadataCatalog.list()


def test_other_annotations_are_another_hash_and_another_place_is_not(write, dataset, tmp_path):
    text = arms("fl") + "seeds: 1\nopts: [DATASETS.TEST, [mine]]\n"
    before = load_spec(write(text + dataset)).runs[0].config_hash
    copy = tmp_path / "copy.json"
    copy.write_bytes((tmp_path / "mine.json").read_bytes())
    there = load_spec(write(text + "datasets: {mine: copy.json:images}")).runs[0]
    assert there.config_hash == before
    copy.write_text(copy.read_text().replace("class 0", "class zero"))
    changed = load_spec(write(text + "datasets: {mine: copy.json:images}")).runs[0]
    assert changed.config_hash != before


def test_evaluations_are_at_equal_distances_and_change_no_hash(write):
    text = arms("ce") + "seeds: 1\nbudget: {iterations: 45}\n"
    plain = load_spec(write(text)).runs[0]
    assert "TEST.EVAL_PERIOD" not in plain.opts
    for number, period in ((10, 5), (2, 23), (1, 0), (1000, 1)):
        run = load_spec(write(f"{text}evaluations: {number}\n")).runs[0]
        assert period == as_trained(run).TEST.EVAL_PERIOD
        assert run.config_hash == plain.config_hash  # finished runs stay finished
    precise = text + "opts: [TEST.PRECISE_BN.ENABLED, true]\n"
    hashes = {
        load_spec(write(f"{precise}evaluations: {n}\n")).runs[0].config_hash for n in (0, 2, 10)
    }
    assert len(hashes) == 3  # there, an evaluation changes the weights


def test_the_period_of_evaluations_is_given_once(write):
    text = arms("ce") + "seeds: 1\nopts: [TEST.EVAL_PERIOD, 3]\n"
    assert as_trained(load_spec(write(text)).runs[0]).TEST.EVAL_PERIOD == 3
    message = "TEST.EVAL_PERIOD cannot be combined with evaluations"
    assert message in refused(write, text + "evaluations: 2\n")


def test_trainer_flags_are_those_of_every_run_and_change_no_hash(write):
    text = arms("ce", "fl") + "seeds: 2\n"
    runs = load_spec(write(text + "trainer_flags: [--trust-pickle, allow-outside-root]\n")).runs
    assert {run.trainer_flags for run in runs} == {("trust-pickle", "allow-outside-root")}
    plain = load_spec(write(text)).runs
    assert [run.id for run in runs] == [run.id for run in plain]
    assert {run.trainer_flags for run in plain} == {()}
    known = {option for action in argument_parser()._actions for option in action.option_strings}
    assert {f"--{flag}" for flag in TRAINER_FLAGS} <= known


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("[trust-pickles]", "did you mean 'trust-pickle'"),
        ("[eval-only]", "no trainer flag of a spec is named 'eval-only'"),
        ("trust-pickle", "trainer_flags must be a list of names"),
        ("[1]", "trainer_flags must be a list of names"),
    ],
)
def test_other_trainer_flags_are_refused(write, flags, message):
    with pytest.raises((ValueError, KeyError)) as error:
        load_spec(write(arms("ce") + f"seeds: 1\ntrainer_flags: {flags}\n"))
    assert message in str(error.value)


def test_an_ignored_category_is_no_class_in_every_run(write, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    opts = "seeds: 1\nopts: [DATASETS.TEST, [mine], MODEL.RETINANET.NUM_CLASSES, 4]\n"
    others = "DATASETS.TRAIN, [mine], "
    text = arms("fl") + opts.replace("[DATASETS", f"[{others}DATASETS") + dataset
    (run,) = load_spec(write(text + "ignore_categories: [class 2]\n")).runs
    assert run.ignore_categories == ("class 2",)
    message = refused(write, text + "ignore_categories: [class 7]\n")
    assert "no given dataset has the ignored category 'class 7'; did you mean 'class" in message
    assert "ignore_categories must be a list of names" in refused(
        write, text + "ignore_categories: class 2\n"
    )


def test_a_pair_of_datasets_is_what_every_run_trains_and_evaluates_on(write, dataset):
    pair = "datasets: {my_train: mine.json:images, my_val: mine.json:images}\n"
    runs = load_spec(write(arms("ce", "fl") + "seeds: 1\n" + pair)).runs
    for run in runs:
        assert as_trained(run).DATASETS.TRAIN == ("my_train",)
        assert as_trained(run).DATASETS.TEST == ("my_val",)


def test_a_data_set_that_no_run_would_use_is_refused(write, dataset):
    message = refused(write, arms("fl") + "seeds: 1\n" + dataset)
    assert "mine is registered but not used: DATASETS.TRAIN is ('focal_shapes_train',)" in message


def test_a_wrong_number_of_classes_is_rejected(write, dataset):
    text = arms("fl") + "seeds: 1\nopts: [DATASETS.TRAIN, [mine], MODEL.RETINANET.NUM_CLASSES, 4]\n"
    message = refused(write, text + dataset)
    assert "NUM_CLASSES is 4, but dataset 'mine' has 5 classes" in message


def test_an_unknown_data_set_gets_a_suggestion(write):
    text = arms("fl") + "seeds: 1\nopts: [DATASETS.TEST, [focal_shapes_vla]]"
    assert "did you mean 'focal_shapes_val'" in refused(write, text)


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        ("mine: none.json:images", FileNotFoundError, "no file"),
        ("mine: mine.json:none", FileNotFoundError, "no directory"),
        ("mine: mine.json", ValueError, "annotations.json:image_dir"),
        ("mine: [1]", ValueError, "annotations.json:image_dir"),
        ("a=b: mine.json:images", ValueError, 'must not contain "="'),
        ("focal_shapes_val: mine.json:images", ValueError, "already registered"),
        ("mine: bad.json:images", ValueError, "is not a COCO JSON"),
    ],
)
def test_a_data_set_that_could_not_be_registered_is_refused(
    write, dataset, tmp_path, entry, error, message
):
    (tmp_path / "bad.json").write_text("{")
    text = arms("fl") + f"seeds: 1\ndatasets: {{{entry}}}"
    assert message in refused(write, text, error)


# --- what is refused


TEXT = "arms: {a: b.yaml}\nseeds: [1]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping"),
        ("[]", "must be a mapping"),
        ("seeds: [1]", "arms and seeds"),
        ("arms: {}\nseeds: [1]", "arms"),
        ("arms: []\nseeds: [1]", "arms must be a list of arms by name"),
        ("arms: [3]\nseeds: [1]", "must be NAME, {group: GROUP} or {NAME: ARM}, got 3"),
        ("arms: [fl, fl]\nseeds: [1]", "'fl' stands twice"),
        ("arms: {a: {arm: 3}}\nseeds: [1]", "arm must be a name, or a list of names, got 3"),
        (BASE + "arms: [rpn_ohem]\nseeds: [1]", "'rpn_ohem' is for faster_rcnn, but the base"),
        ("arms: {a: 1}\nseeds: [1]", "arm 'a': must be"),
        ("arms: {a: {opts: [X]}}\nseeds: [1]", "no config file"),
        ("arms: {a: [X, 1]}\nseeds: [1]", "there is no base"),
        ("arms: {a: b.py}\nseeds: [1]", "arm 'a': config must name a .yaml"),
        ("arms: {'': b.yaml}\nseeds: [1]", "1 to 80 visible characters"),
        ("arms: {'  ': b.yaml}\nseeds: [1]", "1 to 80 visible characters"),
        ('arms: {"a\\eb": b.yaml}\nseeds: [1]', "'\\x1b' is invisible"),
        ('arms: {"a\\u202eb": b.yaml}\nseeds: [1]', "'\\u202e' is invisible"),
        ('arms: {"\U0001f468\u200d\U0001f469": b.yaml}\nseeds: [1]', "'\\u200d' is invisible"),
        ('arms: {"a\\0b": b.yaml}\nseeds: [1]', "'\\x00' is invisible"),
        ('arms: {"a\\nb": b.yaml}\nseeds: [1]', "'\\n' is invisible"),
        (f"arms: {{{'x' * 81}: b.yaml}}\nseeds: [1]", "1 to 80"),
        ("arms: {1: b.yaml}\nseeds: [1]", "quotes"),
        ("arms: {no: b.yaml}\nseeds: [1]", "quotes"),
        ("arms: {a: b.yaml\nseeds: [1]", "not valid YAML"),
        ("arms: {a: b.yaml, a: c.yaml}\nseeds: [1]", "line 1: the key 'a' stands twice"),
        (TEXT + "seeds: [2]", "line 3: the key 'seeds' stands twice"),
        (arms("fl") + "seeds: []", "seeds"),
        (arms("fl") + "seeds: 0", ">= 1"),
        (arms("fl") + "seeds: [1, 1]", "given twice"),
        (arms("fl") + "seeds: 1000000000", "seeds must be at most 10000, got 1000000000"),
        (arms("fl") + "seeds: 0x" + "f" * 9000, "must be at most 10000, got a huge"),
        (arms("ce", "fl") + "seeds: 6000", "make 12000 runs, over 10000"),
        (arms("fl") + "seeds: 1\nbudget: {iterations: 99999999999999999999}", "at most"),
        (arms("fl") + "seeds: 1\ndiagnostics: 99999999999", "at most"),
        (arms("fl") + f"seeds: 1\nbase: {'x' * 100_000}.yaml", "no file and no shipped"),
        (arms("fl") + f"seeds: 1\ndatasets: {{a: '{'x' * 100_000}:y'}}", "no file 'xxx"),
        (arms("fl") + "seeds: 1\ndatasets: {a: '~nobody/a.json:y'}", "no file '~nobody"),
        (f"arms: [{'x' * 100_000}]\nseeds: 1", "1 to 80"),
        (f"arms: {{a: {{arm: {'x' * 100_000}}}}}\nseeds: 1", "no arm is named 'xxx"),
        (arms("fl") + "seeds: [-1]", ">= 0"),
        (arms("fl") + "seeds: [x]", "integer"),
        (arms("fl") + "seeds: [true]", "integer"),
        (arms("fl") + "seeds: true", "seeds"),
        (arms("fl") + "seeds: [4294967296]", "at most"),
        (arms("fl") + "seeds: 1\nopts: {A: 1}", "opts"),
        (arms("fl") + "seeds: 1\nopts: SOLVER.MAX_ITER 5", "opts"),
        (arms("fl") + "seeds: 1\nopts: [SOLVER.MAX_ITER]", "opts"),
        (arms("fl") + "seeds: 1\nopts: [1, 2]", "got the key 1"),
        (arms("fl") + "seeds: 1\nopts: [SOLVER.STEPS, {a: 1}]", "SOLVER.STEPS must be a number"),
        (
            arms("fl") + "seeds: 1\nopts: &a [SOLVER.STEPS, *a]",
            "line 3: the alias *a leads back to itself",
        ),
        (arms("fl") + "seeds: 1\nopts: [SOLVER.STEPS, 2020-01-01]", "must be a number"),
        (arms("fl") + "seeds: 1\nopts: [SEED, 3]", "the key seeds"),
        (arms("fl") + "seeds: 1\nopts: [OUTPUT_DIR, x]", "its own folder"),
        (arms("fl") + "seeds: 1\nopts: [MODEL.FOCAL.INIT, stock]", "initial_weights"),
        (arms("fl") + "seeds: 1\nopts: [SOLVER.MAX_ITER, 3, SOLVER.MAX_ITER, 4]", "given twice"),
        (arms("fl") + "seeds: 1\nopts: [SOLVER.MAX_ITER, many]", "SOLVER.MAX_ITER"),
        (arms("fl") + "seeds: 1\nopts: [SOLVER.MAX_ITER, 0]", ">= 1"),
        (arms("fl") + "seeds: 1\nbudget: 400", "budget must be a mapping"),
        (arms("fl") + "seeds: 1\nbudget: {iterations: 0}", ">= 1"),
        (arms("fl") + "seeds: 1\nbudget: {iterations: 1.5}", "integer"),
        (
            arms("fl") + "seeds: 1\nbudget: {iterations: 5}\nopts: [SOLVER.MAX_ITER, 5]",
            "cannot be combined",
        ),
        (arms("fl") + "seeds: 1\ndiagnostics: -1", ">= 0"),
        (arms("fl") + "seeds: 1\ndiagnostics: false", "integer"),
        (arms("fl") + "seeds: 1\ninitial_weights: by name", "by_name"),
        (arms("fl") + 'seeds: 1\nopts: [DATASETS.TEST, "()"]', "must name a dataset"),
    ],
)
def test_a_malformed_spec_is_an_error_with_its_cause(write, text, message):
    told = refused(write, text, (ValueError, FileNotFoundError))
    assert message in told
    assert len(told) < 1200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT + "sede: 2", "did you mean 'seeds'?"),
        ("arm: {a: b.yaml}\nseeds: [1]", "did you mean 'arms'?"),
        (TEXT + "1: 2", "no key is named 1"),
        (
            "arms: {a: {confg: b.yaml}}\nseeds: [1]",
            "arm 'a': no key is named 'confg'; did you mean",
        ),
        (arms("fl") + "seeds: 1\nbudget: {iteration: 3}", "did you mean 'iterations'?"),
        (arms("ce", "fl") + "seeds: 1\nreference: fll", "did you mean 'fl'?"),
        (
            f"{BASE}arms: {{a: [], b: [SOLVER.MAX_ITERS, 1]}}\nseeds: 1",
            "arm 'b': Non-existent config key: SOLVER.MAX_ITERS; did you mean 'SOLVER.MAX_ITER'?",
        ),
        (arms("fl") + "seeds: 1\nopts: [SOLVER.MAX_ITERS, 1]", "opts: Non-existent config key"),
    ],
)
def test_a_typo_gets_a_suggestion(write, text, message):
    assert message in refused(write, text, (KeyError, ValueError))


def test_a_typo_in_an_arms_file_names_the_arm_and_the_nearest_key(write):
    write("MODEL:\n  RETINANET:\n    PRIOR_PROP: 0.1\n", "arm.yaml")
    message = refused(write, "arms: {my arm: arm.yaml}\nseeds: 1")
    assert "arm 'my arm'" in message
    assert "did you mean 'MODEL.RETINANET.PRIOR_PROB'?" in message


def test_two_arms_of_the_same_config_are_refused_by_name(write):
    file = f"{SHAPES}/retinanet_small.yaml"
    message = refused(write, f"{BASE}arms: {{x: [], y: {file}}}\nseeds: 1")
    assert "arms 'x' and 'y' have the same config" in message


def test_an_option_that_an_arm_and_all_arms_have_is_refused(write):
    text = f"{BASE}arms: {{a: [SOLVER.BASE_LR, 0.1]}}\nseeds: 1\nopts: [SOLVER.BASE_LR, 0.2]"
    assert "arm 'a': SOLVER.BASE_LR" in refused(write, text)


@pytest.mark.parametrize(
    "text", [TEXT, "base: none.yaml\n" + arms("fl") + "seeds: 1"], ids=["arm", "base"]
)
def test_a_missing_config_file_is_named(write, text):
    assert ".yaml" in refused(write, text, (FileNotFoundError, ValueError))


def test_a_missing_spec_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        load_spec(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "MODEL: 3", "SOLVER: {MAX_ITER: x}", "_BASE_: arm.yaml", "a: [", "\x00"],
    ids=repr,
)
def test_a_malformed_config_is_an_error_that_names_the_arm(write, content):
    write(content, "arm.yaml")
    assert "arm 'a'" in refused(write, "arms: {a: arm.yaml}\nseeds: 1")


# --- what is data runs no code and opens no connection


PAYLOAD = "!!python/object/apply:os.mkdir [{}]"


def test_a_spec_runs_no_code(write, tmp_path):
    text = f"arms: {PAYLOAD.format(tmp_path / 'ran')}\nseeds: [1]"
    assert "constructor" in refused(write, text)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("base", [False, True])
def test_neither_an_arms_file_nor_its_base_runs_code(write, tmp_path, base):
    write(f"MODEL:\n  WEIGHTS: {PAYLOAD.format(tmp_path / 'ran')}", "base.yaml")
    write("_BASE_: base.yaml", "arm.yaml")
    assert "arm 'a'" in refused(write, f"arms: {{a: {'arm' if base else 'base'}.yaml}}\nseeds: 1")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("base", ["http://localhost:9/x.yaml", "https://localhost:9/x.yaml"])
def test_a_base_from_the_network_is_refused(write, base):
    write(f"_BASE_: {base}", "arm.yaml")
    assert "_BASE_ must be a file" in refused(write, "arms: {a: arm.yaml}\nseeds: 1")
