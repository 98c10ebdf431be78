"""Tests of the bounds of YAML files, through every way that reads one."""

import time

import pytest
import yaml

from focal_plugin import get_cfg
from focal_plugin.compare.plan.spec import load_spec
from focal_plugin.config_node import MAY_BE_NONE
from focal_plugin.yaml_text import MAX_BYTES, MAX_DEPTH, MAX_NODES, load, read_text

from .conftest import ROOT


def bomb(levels, first, link):
    """Return levels of ten aliases each, so that the last one stands for 10**levels values."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i + 1}: &a{i + 1} {link(f'*a{i}')}" for i in range(levels)]
    return "\n".join(lines)


BOMBS = {
    "of lists": bomb(9, "[x]", lambda a: f"[{', '.join([a] * 10)}]"),
    "of mappings": bomb(9, "{x: 1}", lambda a: f"{{{', '.join(f'k{i}: {a}' for i in range(10))}}}"),
    "of merges": bomb(9, "{x: 1}", lambda a: f"{{<<: [{', '.join([a] * 10)}]}}"),
    "of keys": bomb(9, "{x: 1}", lambda a: f"{{? [{', '.join([a] * 10)}] : 1}}"),
}
LIMITS = [
    *(
        (text, f"line 6: with its aliases written out, .* more than {MAX_NODES}")
        for text in BOMBS.values()
    ),
    (bomb(3000, "[x]", lambda a: f"[{a}]"), f"line {MAX_DEPTH}: .* over {MAX_DEPTH} levels"),
    ("a: " + "[" * 50_000, f"line 1: it is nested more than {MAX_DEPTH} levels"),
    ("a: " + "{a: " * 50_000, f"line 1: it is nested more than {MAX_DEPTH} levels"),
    ("- " * 50_000 + "1", f"line 1: it is nested more than {MAX_DEPTH} levels"),
    ("\n".join(" " * i + "a:" for i in range(900)), "line 50: it is nested more"),
    ("a: &a {b: *a}", "line 1: the alias .a leads back to itself"),
    ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
    ("a: {b: 1, 'b': 2}", "line 1: the key 'b' stands twice"),
    ("x:\n- {b: 1,\n   b: 1}", "line 3: the key 'b' stands twice"),
    ("MODEL:", "line 1: the key 'MODEL' has no value"),
    ("SOLVER:\n  BASE_LR:\n  STEPS: (1,)", "line 2: the key 'BASE_LR' has no value"),
    ("a: !!null", "line 1: the key 'a' has no value"),
    ("SEED: " + "9" * 5000, "does not fit its type: Exceeds the limit"),
    ("SEED: 2020-99-99", "does not fit its type: month must be"),
    ("SEED: !!timestamp x", "does not fit its type"),
    ("SEED: !!bool x", "does not fit its type"),
    ("SEED: *a", "undefined alias 'a', line 1"),
    ("SEED: 1\nSEED 2\n", "is not valid YAML: .*, line 3"),
]


READERS = {
    "a config": lambda file: get_cfg().merge_from_file(str(file)),
    "a base": lambda file: get_cfg().merge_from_file(str(file.with_name("top.yaml"))),
    "a spec": load_spec,
}


@pytest.mark.parametrize(("text", "message"), LIMITS, ids=range(len(LIMITS)))
@pytest.mark.parametrize("read", READERS)
def test_a_text_outside_the_bounds_is_one_line_within_a_second(read, text, message, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text(text)
    (tmp_path / "top.yaml").write_text("_BASE_: file.yaml")
    started = time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        READERS[read](file)
    assert time.process_time() - started < 1
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1 # " + b"x" * MAX_BYTES, "larger than 1 MiB"),
        (b"a: \xff\n", "not UTF-8 text: byte 3"),
    ],
    ids=["large", "latin-1"],
)
def test_a_file_that_is_no_text_of_this_size_is_named(content, message, tmp_path):
    (tmp_path / "a.yaml").write_bytes(content)
    for read in (load_spec, read_text, lambda file: get_cfg().merge_from_file(str(file))):
        with pytest.raises(ValueError, match=rf"a\.yaml.* {message}"):
            read(tmp_path / "a.yaml")


def test_a_file_that_changes_is_checked_again(tmp_path):
    file = tmp_path / "a.yaml"
    for text in ("SEED: 1", "SEED: 2"):
        file.write_text(text)
        cfg = get_cfg()
        cfg.merge_from_file(str(file))
        assert f"SEED: {cfg.SEED}" == text
    file.write_text("SEED: 1\nSEED: 2")
    with pytest.raises(ValueError, match="line 2: the key 'SEED' stands twice"):
        get_cfg().merge_from_file(str(file))


def test_a_base_that_fans_out_ends_after_some_files(tmp_path):
    for level in range(30):
        below = f"{level + 1}.yaml"
        (tmp_path / f"{level}.yaml").write_text(f"_BASE_: [{below}, {below}]\n")
    (tmp_path / "30.yaml").write_text("SEED: 1\n")
    with pytest.raises(
        ValueError, match=r"0\.yaml: its _BASE_ leads back to itself, or to over 50"
    ):
        get_cfg().merge_from_file(str(tmp_path / "0.yaml"))
    get_cfg().merge_from_file(str(tmp_path / "28.yaml"))  # nothing is left of the count


def test_plain_texts_mean_what_they_mean_in_yaml():
    text = "a: &a {x: 1, y: null}\nb: {<<: *a, x: 2}\nc: [*a, *a, ~, '']\n"
    assert load(text, "text") == yaml.safe_load(text)
    assert load("", "text") is None
    wide = f"a: &a [{', '.join(['1'] * 200)}]\nb: [{', '.join(['*a'] * 100)}]"
    assert load(wide, "text")["b"] == [[1] * 200] * 100


def test_every_shipped_file_is_within_the_bounds():
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert len(files) > 100
    for file in files:
        assert load(read_text(file), str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: null", "MODEL holds other keys, such as MODEL..*; got None"),
        ("MODEL: {FOCAL: ~}", "MODEL.FOCAL holds other keys, .*; got None"),
        ("SOLVER: 3", "SOLVER holds other keys, .*; got 3"),
        ("INPUT: {CROP: []}", r"INPUT.CROP holds other keys, .*; got \[\]"),
        ("SOLVER: {BASE_LR: null}", "SOLVER.BASE_LR must not be None; it is 0.001 so far"),
        ("DATASETS: {TRAIN: ~}", "DATASETS.TRAIN must not be None"),
        ("MODEL: {MASK_ON: None}", "MODEL.MASK_ON must not be None"),
        ("1: 2", "line 1: a key must be text such as SEED, got '1'"),
        ("SOLVER:\n  on: 2", "line 2: a key must be text such as SEED, got 'on'"),
    ],
)
def test_a_config_keeps_its_nodes_and_its_values(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        get_cfg().merge_from_file(str(tmp_path / "a.yaml"))
    assert "a.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.FOCAL", 3, "MODEL.FOCAL holds other keys, .*; got 3"),
        ("MODEL", None, "MODEL holds other keys, .*; got None"),
        ("MODEL.FOCAL.MINING", "{'NAME': 'OHEMMiner'}", "MODEL.FOCAL.MINING holds other keys"),
        ("SOLVER.BASE_LR", "None", "SOLVER.BASE_LR must not be None"),
        ("SEED", None, "SEED must not be None"),
        ("SOLVER.BASE_LR", "-" * 100_000 + "1", "value '---.*---1' is nested too deep"),
    ],
)
def test_an_option_keeps_nodes_and_values(key, value, message):
    with pytest.raises(ValueError, match=message):
        get_cfg().merge_from_list([key, value])


def test_a_key_may_be_none_if_it_is_by_default():
    def none(cfg, prefix=""):
        for key, value in cfg.items():
            yield from none(value, f"{prefix}{key}.") if isinstance(value, dict) else ()
            if value is None:
                yield prefix + key

    assert set(none(get_cfg())) == MAY_BE_NONE
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.FOCAL.RPN.CLS_LOSS.ALPHA", 0.25])
    cfg.merge_from_list(["MODEL.FOCAL.RPN.CLS_LOSS.ALPHA", "None"])
    assert cfg.MODEL.FOCAL.RPN.CLS_LOSS.ALPHA is None
