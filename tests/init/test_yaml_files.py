"""focal_plugin/init/yaml_files.py: YAML with a comment for each line."""

import math

import pytest
import yaml

from focal_plugin.init.recipes import Setting
from focal_plugin.init.yaml_files import WIDTH, config_text, flow, path_text, spec_text
from focal_plugin.yaml_text import load

HOSTILE = ["é: #x", "1", "null", "a\nb", "- x", "'\"\\", "~", "\U0001f600", "x" * 300, ""]


@pytest.mark.parametrize("value", [*HOSTILE, 1, 0.5, 1e-9, True, [], [HOSTILE], [[1.5], [2]]])
def test_a_value_is_read_back_from_one_line(value):
    assert "\n" not in flow(value)
    assert load(f"key: {flow(value)}  # why", "it") == {"key": value}


def test_keys_of_a_node_stand_together_with_their_reasons():
    text = config_text(
        ["Top."],
        [Setting("A.B", 1, "one"), Setting("C", "x", "two"), Setting("A.D.E", [2], "three")],
    )
    assert text == "# Top.\nA:\n  B: 1  # one\n  D:\n    E: [2]  # three\nC: x  # two\n"


def test_a_long_reason_stands_above_its_line():
    text = config_text([], [Setting("A", 1, "why " * 40)])
    first, second = text.splitlines()
    assert first.startswith("# why")
    assert second == "A: 1"
    assert len(second) < WIDTH


def test_lists_and_mappings_of_a_spec_have_a_line_for_each_entry():
    text = spec_text(
        [],
        [
            ("arms", [("ce", "none"), ("fl", "focal")], ""),
            ("budget", {"iterations": (5, "each")}, "b"),
            ("seeds", [1, 2], "s"),
        ],
    )
    assert text.splitlines() == [
        "arms:",
        "  - ce  # none",
        "  - fl  # focal",
        "budget:  # b",
        "  iterations: 5  # each",
        "seeds: [1, 2]  # s",
    ]


def test_a_reason_of_several_lines_cannot_become_a_key():
    text = spec_text([], [("a", 1, "x\nb: 2")])
    assert yaml.safe_load(text) == {"a": 1}
    assert yaml.safe_load(config_text([], [Setting("a", math.pi, f"{'x' * 99}\nb: 2")])) == {
        "a": math.pi
    }


def test_a_path_is_relative_where_both_can_be_moved_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "deep" / "cells"
    assert path_text(folder / "train.json", folder) == "train.json"
    assert path_text(tmp_path / "deep" / "images", folder) == "../images"
    assert path_text(tmp_path / "data" / "images", folder) == "../../data/images"
    assert path_text(folder / "~x", folder) == "./~x"
    outside = tmp_path.parent / "elsewhere"
    assert path_text(outside, folder) == str(outside)
