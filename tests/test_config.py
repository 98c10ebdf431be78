import functools
import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from focal_plugin import add_focal_config, get_cfg
from focal_plugin.config import resolve_device
from focal_plugin.config_node import RENAMED, _full_keys

from .each import each


def test_only_the_focal_node_and_the_device_are_added_to_detectron2s_config():
    ours, stock = get_cfg(), get_detectron2_cfg()
    del ours.MODEL["FOCAL"]
    ours.MODEL.DEVICE = stock.MODEL.DEVICE
    assert ours.dump() == stock.dump()


def test_adding_the_node_twice_changes_nothing():
    cfg = get_detectron2_cfg()
    add_focal_config(cfg)
    cfg.MODEL.FOCAL.NORMALIZER.NAME = "batch"
    add_focal_config(cfg)
    assert cfg.MODEL.FOCAL.NORMALIZER.NAME == "batch"


def test_detectron2s_own_config_is_left_alone():
    get_cfg()
    assert "FOCAL" not in get_detectron2_cfg().MODEL


def test_auto_is_the_device_there_is():
    cfg = get_detectron2_cfg()
    cfg.MODEL.DEVICE = "auto"
    resolve_device(cfg)
    assert ("cuda" if torch.cuda.is_available() else "cpu") == cfg.MODEL.DEVICE
    assert get_cfg().MODEL.DEVICE == cfg.MODEL.DEVICE


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("MODEL.FOCAL.CLS_LOSS.NAMES", "MODEL.FOCAL.CLS_LOSS.NAME"),
        ("MODEL.FOCAL.NORMALISER", "MODEL.FOCAL.NORMALIZER"),
        ("MODEL.RETINANET.FOCAL_GAMMA", "MODEL.RETINANET.FOCAL_LOSS_GAMMA"),
    ],
)
def test_an_unknown_key_is_told_the_nearest(tmp_path, unknown, nearest):
    with pytest.raises(KeyError, match=f"{unknown}; did you mean '{nearest}'"):
        get_cfg().merge_from_list([unknown, "x"])
    nested = "x"
    for part in reversed(unknown.split(".")):
        nested = CfgNode({part: nested})
    (tmp_path / "typo.yaml").write_text(nested.dump())
    with pytest.raises(KeyError, match=f"{unknown}; did you mean '{nearest}'"):
        get_cfg().merge_from_file(str(tmp_path / "typo.yaml"))


@each(
    ("old", "new"),
    [
        *RENAMED.items(),
        ("MODEL.FOCAL.NORMALIZER", "MODEL.FOCAL.NORMALIZER.NAME"),
        ("MODEL.FOCAL.RPN.CLS_LOSS.EQL_MU", "MODEL.FOCAL.RPN.CLS_LOSS.EQLV2_MU"),
    ],
)
def test_an_old_key_names_the_new_one(old, new, tmp_path):
    message = re.escape(f"config key {old} is now {new}")
    cfg = get_cfg()
    if old != "MODEL.FOCAL.NORMALIZER":  # a node, so yacs refuses a value by itself
        with pytest.raises(KeyError, match=message):
            cfg.merge_from_list([old, "1"])
        known = dict(_full_keys(cfg))
        assert new in known
        assert old not in known
    nested = "ema"
    for part in reversed(old.split(".")):
        nested = CfgNode({part: nested})
    (tmp_path / "old.yaml").write_text(nested.dump())
    with pytest.raises(KeyError, match=message):
        get_cfg().merge_from_file(str(tmp_path / "old.yaml"))


@each(
    ("pairs", "message"),
    [
        (
            ["MODEL.RETINANET.FOCAL_LOSS_GAMMA", "two"],
            "GAMMA must be a float, such as 2.0, got two",
        ),
        (["SOLVER.BASE_LR", "True"], "SOLVER.BASE_LR must be a float, such as 0.001, got True"),
        (["SOLVER.BASE_LR", "1" + "0" * 400], "SOLVER.BASE_LR must be a float"),
        (["SOLVER.MAX_ITER", "0.5"], "SOLVER.MAX_ITER must be a int, such as 40000, got 0.5"),
        (["DATASETS.TRAIN", "mine"], "DATASETS.TRAIN must be a tuple, such as ('name',), got mine"),
        (["MODEL.RPN", "3"], "MODEL.RPN holds other keys, such as MODEL.RPN.HEAD_NAME; got 3"),
        (["SOLVER.BASE_LR", "1", "SEED"], "pairs are required, but 'SEED' has no value"),
        (["SEED", "1", "--resume"], "the flag --resume must come before the KEY VALUE pairs"),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_the_key(pairs, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        get_cfg().merge_from_list(pairs)
    assert "\n" not in str(error.value)


AUTO_KEYS = [f"MODEL.FOCAL.{stage}CLS_LOSS.CLASS_ALPHA" for stage in ("", "RPN.", "ROI_HEADS.")]


def value_of(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


@each("key", AUTO_KEYS)
def test_class_alpha_changes_between_a_list_and_auto_by_options_and_by_files(key, tmp_path):
    cfg = get_cfg()
    for value in ("auto", "[0.1, 0.2]", "auto", (0.3, 0.4)):
        cfg.merge_from_list([key, value])
        assert value_of(cfg, key) in ("auto", [0.1, 0.2], (0.3, 0.4))
    *nodes, name = key.split(".")
    for value in ("auto", [0.5, 0.5], "auto"):
        content = functools.reduce(lambda inner, node: {node: inner}, nodes[::-1], {name: value})
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
        cfg.merge_from_file(str(tmp_path / "a.yaml"))
        assert value_of(cfg, key) == value


@each("value", [3, "often", "0.5", [], None])
def test_another_value_of_class_alpha_is_refused_and_changes_nothing(value):
    for before in ("auto", [0.1]):
        cfg = get_cfg()
        cfg.merge_from_list([AUTO_KEYS[0], before])
        if value == []:
            unknown = [AUTO_KEYS[0], "auto" if before == [0.1] else [0.2], "NO.SUCH", 1]
            with pytest.raises(KeyError, match=r"NO\.SUCH"):
                cfg.merge_from_list(unknown)
        else:
            with pytest.raises(ValueError, match=r"CLASS_ALPHA must (be a list of|not be None)"):
                cfg.merge_from_list([AUTO_KEYS[0], value])
        assert value_of(cfg, AUTO_KEYS[0]) == before


def test_a_key_below_a_value_is_unknown():
    with pytest.raises(KeyError, match=r"config key: SOLVER\.BASE_LR\.X; did you mean"):
        get_cfg().merge_from_list(["SOLVER.BASE_LR.X", "1"])


FLOATS = {
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": -1,
    "MODEL.FOCAL.RPN.CLS_LOSS.WEIGHT": 2,
    "SOLVER.BASE_LR": 1,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0,
}


@each(("key", "integer"), FLOATS.items())
def test_a_float_may_be_written_as_an_integer(key, integer, tmp_path):
    nested = integer
    for part in reversed(key.split(".")):
        nested = {part: nested}
    (tmp_path / "file.yaml").write_text(f"VERSION: 2\n{CfgNode(nested).dump()}")
    by_file, by_list, by_value = get_cfg(), get_cfg(), get_cfg()
    by_file.merge_from_file(str(tmp_path / "file.yaml"))
    by_list.merge_from_list([key, str(integer)])
    by_value.merge_from_list([key, integer])
    for cfg in (by_file, by_list, by_value):
        value = dict(_full_keys(cfg))[key]
        assert (type(value), value) == (float, integer)


def test_an_integer_stays_one_where_the_key_has_one():
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", "7", "MODEL.FOCAL.RPN.CLS_LOSS.ALPHA", -1])
    assert type(cfg.SOLVER.MAX_ITER) is int
    assert cfg.MODEL.FOCAL.RPN.CLS_LOSS.ALPHA == -1


def test_the_node_survives_dump_and_load(tmp_path):
    cfg = get_cfg()
    cfg.MODEL.FOCAL.NORMALIZER.NAME = "per_image"
    (tmp_path / "config.yaml").write_text(cfg.dump())
    loaded = get_cfg()
    loaded.merge_from_file(str(tmp_path / "config.yaml"))
    assert loaded.MODEL.FOCAL == cfg.MODEL.FOCAL


UNSAFE = "MODEL: {WEIGHTS: !!python/object/apply:os.system ['touch %s']}\n"


@pytest.fixture
def write(tmp_path):
    """write(text, name="config.yaml") -> the name of the file, in a folder of its own."""

    def write(text, name="config.yaml"):
        file = tmp_path / name
        file.write_text(text)
        return str(file)

    return write


def test_a_tag_that_runs_code_is_refused_and_runs_none(tmp_path, write):
    file = write("SEED: 1\n" + UNSAFE % (tmp_path / "ran"))
    with pytest.raises(ValueError, match="--allow-unsafe-yaml") as error:
        get_cfg().merge_from_file(file)
    assert f"{file}, line 2: the tag !!python/object/apply:os.system" in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("bases", ["base.yaml", "[good.yaml, base.yaml]"])
def test_a_tag_in_a_base_is_refused_by_the_name_of_that_file(tmp_path, write, bases):
    base = write(UNSAFE % (tmp_path / "ran"), "base.yaml")
    write("SEED: 1", "good.yaml")
    middle = write(f"_BASE_: {bases}", "middle.yaml")
    top = write("_BASE_: middle.yaml")
    for file in (middle, top):
        with pytest.raises(ValueError, match=f"{base}, line 1: the tag"):
            get_cfg().merge_from_file(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("tag", ["!!python/tuple [1]", "!!python/name:os.system ''", "!mine 3"])
def test_every_tag_that_plain_yaml_lacks_is_refused_wherever_it_is(write, tag):
    for text in (f"A: {tag}", f"A: [{{B: [1, {tag}]}}]", f"? {tag}\n: 1"):
        with pytest.raises(ValueError, match=f"the tag {tag.split()[0]} "):
            get_cfg().merge_from_file(write(text))


def test_whoever_allows_it_has_the_tag_evaluated(write):
    file = write("MODEL: {WEIGHTS: !!python/object/apply:str [seven]}")
    cfg = get_cfg()
    cfg.merge_from_file(file, allow_unsafe=True)
    assert cfg.MODEL.WEIGHTS == "seven"


def test_plain_yaml_of_every_kind_is_merged(write):
    write("SEED: 1\nMODEL: {WEIGHTS: base}", "base.yaml")
    file = write(
        "_BASE_: base.yaml\nINPUT: &input {MIN_SIZE_TRAIN: !!seq [1, 2]}\n"
        "SOLVER:\n  BASE_LR: !!float 1\n  STEPS: (3, 4)\n"
        "MODEL: {RPN: {<<: {BATCH_SIZE_PER_IMAGE: 8}}}"
    )
    cfg = get_cfg()
    cfg.merge_from_file(file)
    assert (cfg.SEED, cfg.MODEL.WEIGHTS, cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS) == (
        1,
        "base",
        1.0,
        (3, 4),
    )
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE) == ((1, 2), 8)


@pytest.mark.parametrize("address", ["http://h/x.yaml", "https://h/x.yaml", "detectron2://x.yaml"])
@pytest.mark.parametrize("allow_unsafe", [False, True])
def test_an_address_is_refused_and_nothing_fetched(write, monkeypatch, address, allow_unsafe):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it was fetched"))
    base, bases = write(f"_BASE_: {address}", "a"), write(f"_BASE_: [a, '{address}']", "b")
    with pytest.raises(ValueError, match=f"file on this machine, got .*{address}"):
        get_cfg().merge_from_file(write(f"<<: {{_BASE_: '{address}'}}", "c"))
    for file in (base, bases, address):
        with pytest.raises(ValueError, match=f"file on this machine, got {address}") as error:
            get_cfg().merge_from_file(file, allow_unsafe=allow_unsafe)
        assert file in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- SEED\n- 1", "holds no keys but a sequence"),
        ("SEED 1", "holds no keys but a scalar"),
        ("SEED: 1\nMODEL: [", "is not valid YAML: .* line 2"),
        ("SEED: 1\n\tMODEL: 2", "is not valid YAML: .* line 2"),
        ("SEED: 1\n---\nSEED: 2", "is not valid YAML: .* line 2"),
        ("\x00", "is not valid YAML"),
        ("_BASE_: 3", "line 1: _BASE_ must be the name of a file"),
        ("SEED: 1\n_BASE_: [{a: b}]", "line 2: _BASE_ must be the name of a file"),
        ("_BASE_: config.yaml", "its _BASE_ leads back to itself"),
    ],
)
def test_a_file_that_is_no_config_is_named_with_what_is_wrong(write, text, message):
    file = write(text)
    with pytest.raises(ValueError, match=f"(?s){re.escape(file)}.*{message}"):
        get_cfg().merge_from_file(file)


def test_a_base_that_is_no_config_is_named(write):
    base = write("", "base.yaml")
    with pytest.raises(ValueError, match=f"{re.escape(base)} is empty"):
        get_cfg().merge_from_file(write("_BASE_: base.yaml"))


@pytest.mark.parametrize("as_base", [True, False], ids=["_BASE_", "--config-file"])
@pytest.mark.parametrize("name", ["retinanet_R_50_FPN_1x", "faster_rcnn_R_50_FPN_1x"])
def test_a_config_of_the_installed_model_zoo_is_read(write, name, as_base):
    """Detectron2's Base-RetinaNet.yaml computes its anchors by a tag, which is trusted there."""
    zoo = model_zoo.get_config_file(f"COCO-Detection/{name}.yaml")
    cfg = get_cfg()
    cfg.merge_from_file(write(f"_BASE_: {zoo}\nMODEL: {{DEVICE: cpu}}\n") if as_base else zoo)
    expected = model_zoo.get_config(f"COCO-Detection/{name}.yaml")
    for node in ("RETINANET", "RPN", "ANCHOR_GENERATOR", "RESNETS", "WEIGHTS"):
        assert cfg.MODEL[node] == expected.MODEL[node]
    assert cfg.SOLVER == expected.SOLVER


def test_a_copy_of_a_file_of_the_zoo_is_not_trusted(tmp_path):
    zoo = Path(model_zoo.get_config_file("Base-RetinaNet.yaml"))
    copy = tmp_path / zoo.name
    copy.write_text(zoo.read_text())
    with pytest.raises(ValueError, match="may run code"):
        get_cfg().merge_from_file(str(copy))


def test_a_base_of_the_zoo_lends_its_trust_to_no_other_file(write):
    zoo = model_zoo.get_config_file("Base-RetinaNet.yaml")
    tag = '!!python/object/apply:eval ["1"]'
    with pytest.raises(ValueError, match="may run code"):
        get_cfg().merge_from_file(write(f"_BASE_: {zoo}\nSEED: {tag}\n"))
