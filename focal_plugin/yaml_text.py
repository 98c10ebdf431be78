"""
YAML that people write: read within bounds, and without the silent rules of YAML.

YAML keeps the last of two equal keys, reads an empty value as null, and lets a short text stand for
a gigabyte. Here these are errors, which name the file and the line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

MAX_BYTES = 2**20
MAX_DEPTH = 50
MAX_NODES = 100_000
"""Most values and keys of a file, where each alias counts as all that it stands for."""

MERGE = "tag:yaml.org,2002:merge"
NULL = "tag:yaml.org,2002:null"

# Errors of PyYAML's constructors for a text that does not fit its tag, such as 2020-99-99
_ILLEGAL_VALUES = (ValueError, AttributeError, KeyError, TypeError, OverflowError)


def read_text(file: Path) -> str:
    """
    Return the text of a file.

    Raises:
        ValueError: it is larger than :data:`MAX_BYTES`, or no UTF-8.
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{file} is larger than {MAX_BYTES // 2**20} MiB, so it is no config")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: byte {error.start} is wrong") from None


def compose(text: str, name: str) -> yaml.Node | None:
    """
    Return the nodes of one YAML document; this executes nothing and opens no other file.

    Args:
        name: name of the text in errors.

    Returns:
        The root; None for an empty text.

    Raises:
        ValueError: the text is not valid YAML, has a key twice or a key without a value, an alias
            leads back to itself, or it is larger or deeper than the bounds of this module.
    """
    try:
        composer = _Composer(text)
        root: yaml.Node | None = composer.get_single_node()
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not valid YAML: {_in_one_line(error)}") from None
    except _BoundError as error:
        raise ValueError(f"{name}, {error}") from None
    return root


def load(text: str, name: str) -> Any:
    """
    Return the content of one YAML document as plain values, with the errors of :func:`compose`.

    Raises:
        ValueError: a value does not fit its tag, or a tag may run code.
    """
    return construct(compose(text, name), name)


def construct(root: yaml.Node | None, name: str) -> Any:
    """Return the values of the nodes of :func:`compose`, with the errors of :func:`load`."""
    if root is None:
        return None
    try:
        return yaml.SafeLoader("").construct_document(root)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not plain YAML: {_in_one_line(error)}") from None
    except _ILLEGAL_VALUES as error:
        raise ValueError(f"{name} has a value that does not fit its type: {error}") from None


class _BoundError(Exception):
    """Error at a node; the message starts with the line."""

    def __init__(self, node: yaml.Node | yaml.Event, problem: str) -> None:
        super().__init__(f"line {node.start_mark.line + 1}: {problem}")


class _Extent(NamedTuple):
    """Number of nodes and levels of a node, with its aliases written out."""

    nodes: int
    depth: int


class _Composer(yaml.SafeLoader):
    """Composer that measures each node when it is complete, so that a bomb ends the reading."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._extents: dict[yaml.Node, _Extent] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        self._level += 1
        if self._level > MAX_DEPTH:
            raise _BoundError(event, f"it is nested more than {MAX_DEPTH} levels deep")
        node: yaml.Node = super().compose_node(parent, index)
        self._level -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._extents[node] = _extent(node, self._extents)
        elif node not in self._extents:
            raise _BoundError(event, f"the alias *{event.anchor} leads back to itself")
        return node


def _extent(node: yaml.Node, known: dict[yaml.Node, _Extent]) -> _Extent:
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
    below = [known[child] for child in children(node)]
    nodes = 1 + sum(each.nodes for each in below)
    depth = 1 + max((each.depth for each in below), default=0)
    if nodes > MAX_NODES:
        raise _BoundError(
            node, f"with its aliases written out, it has more than {MAX_NODES} values"
        )
    if depth > MAX_DEPTH:
        raise _BoundError(node, f"with its aliases written out, it is over {MAX_DEPTH} levels deep")
    return _Extent(nodes, depth)


def children(node: yaml.Node) -> list[yaml.Node]:
    """Return the keys and values of a mapping, or the elements of a sequence."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, value in node.value:
        name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
        if name in seen and key.tag != MERGE:
            raise _BoundError(key, f"the key {key.value!r} stands twice")
        seen.add(name)
        if value.tag == NULL and not value.value:
            raise _BoundError(
                key, f"the key {key.value!r} has no value; remove the line, or write null for none"
            )


def _in_one_line(error: yaml.YAMLError) -> str:
    """Return the problem and its line, without the excerpt of the text."""
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    return f"{problem}, line {mark.line + 1}" if mark else problem
