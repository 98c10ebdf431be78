"""JSON objects of a known form."""

import json
import re
from dataclasses import dataclass, field

import pytest

from focal_plugin.json_file import DamagedFileError, as_type, read_object


@dataclass(frozen=True)
class Leaf:
    name: str
    size: int = 1


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    depth: float | None = None
    tall: bool = False
    names: dict[str, str | None] = field(default_factory=dict)


TREE = {"leaves": [{"name": "a", "of_tomorrow": 1}], "depth": 2, "names": {"b": None}}


def test_an_object_becomes_its_dataclass_with_defaults_and_without_unknown_keys(tmp_path):
    file = tmp_path / "tree.json"
    assert read_object(Tree, file) is None
    file.write_text(json.dumps(TREE))
    assert read_object(Tree, file) == Tree((Leaf("a"),), 2, False, {"b": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leaves": {}}, "leaves must be a list, got {}"),
        ({"leaves": [{"name": 7}]}, "leaves[0].name must be text, got 7"),
        ({"leaves": [{"name": "a", "size": 1.0}]}, "leaves[0].size must be an integer, got 1.0"),
        ({"leaves": [{"name": "a", "size": 2**63}]}, "leaves[0].size must be an integer"),
        ({"leaves": [{}]}, "leaves[0].name is missing"),
        ({"depth": "2"}, "depth must be a finite number, got '2'"),
        ({"depth": True}, "depth must be a finite number, got True"),
        ({"depth": float("nan")}, "depth must be a finite number, got nan"),
        ({"depth": 10**400}, "depth must be a finite number, got 1000"),
        ({"tall": 1}, "tall must be true or false, got 1"),
        ({"names": ["b"]}, "names must be an object, got ['b']"),
        ({"names": {"b": "\ud800"}}, "names.b must be text, got '\\ud800'"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        as_type(Tree, {**TREE, **change})


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"{", "it is not JSON"),
        (b"\xff\xfe", "it is not text"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b"null", "it must be an object, got None"),
        (b"{}", "leaves is missing"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(tmp_path, content, fault):
    file = tmp_path / "tree.json"
    file.write_bytes(content)
    with pytest.raises(DamagedFileError) as caught:
        read_object(Tree, file)
    assert str(caught.value).startswith(f"{file} is damaged: {fault}")


def test_a_folder_of_that_name_is_damage(tmp_path):
    with pytest.raises(DamagedFileError, match="Is a directory"):
        read_object(Tree, tmp_path)


def test_a_file_below_a_file_is_missing(tmp_path):
    (tmp_path / "run").write_text("")
    assert read_object(Tree, tmp_path / "run" / "tree.json") is None
