"""Text of the files that `focal-plugin init` writes: YAML with a comment for each line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .recipes import Setting

WIDTH = 100
"""Columns of a line; a comment that would be longer stands above its line."""

INDENT = "  "


def config_text(header: Sequence[str], settings: Iterable[Setting]) -> str:
    """
    Return the text of a config file.

    Args:
        header: lines of the comment at the top.
        settings: keys with their reasons; keys of one node need not stand together.
    """
    tree: dict[str, Any] = {}
    for setting in settings:
        *nodes, name = setting.key.split(".")
        node = tree
        for each in nodes:
            node = node.setdefault(each, {})
        node[name] = setting
    return "\n".join([*_comments(header), *_node_lines(tree, "")]) + "\n"


def spec_text(header: Sequence[str], entries: Iterable[tuple[str, Any, str]]) -> str:
    """
    Return the text of a spec.

    Args:
        header: lines of the comment at the top.
        entries: key, value and comment; a value that is a list of (value, comment), or a mapping to
            (value, comment), has one line for each.
    """
    lines = _comments(header)
    for key, value, why in entries:
        if isinstance(value, Mapping):
            lines += [_line(f"{key}:", why)]
            lines += [line for k, (v, w) in value.items() for line in _lines(INDENT, k, v, w)]
        elif isinstance(value, list) and value and isinstance(value[0], tuple):
            lines += [_line(f"{key}:", why)]
            lines += [_line(f"{INDENT}- {flow(v)}", w) for v, w in value]
        else:
            lines += _lines("", key, value, why)
    return "\n".join(lines) + "\n"


def flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False
    )
    text = text.removesuffix("...\n").strip()
    # PyYAML writes a line break in a text as one; JSON, which is YAML, escapes it
    return json.dumps(value, ensure_ascii=False) if "\n" in text else text


def path_text(path: Path, folder: Path) -> str:
    """
    Return a path as a spec in ``folder`` names it.

    It is relative if it lies beside or below the folder, or if both lie in the working directory,
    so that all can be moved together.
    """
    absolute, base = (Path(os.path.abspath(each)) for each in (path, folder))
    together = [root for root in (base.parent, Path.cwd()) if base.is_relative_to(root)]
    if not any(absolute.is_relative_to(root) for root in together):
        return str(absolute)
    text = os.path.relpath(absolute, base)
    return f"./{text}" if text.startswith("~") else text


def _node_lines(tree: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for name, value in tree.items():
        if isinstance(value, Setting):
            lines += _lines(indent, name, value.value, value.why)
        else:
            lines += [f"{indent}{name}:", *_node_lines(value, indent + INDENT)]
    return lines


def _lines(indent: str, key: str, value: Any, why: str) -> list[str]:
    text = f"{indent}{flow(key)}: {flow(value)}"
    line = _line(text, why)
    return [line] if len(line) <= WIDTH else [f"{indent}# {_one_line(why)}", text]


def _line(text: str, why: str) -> str:
    return f"{text}  # {_one_line(why)}" if why else text


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _comments(lines: Sequence[str]) -> list[str]:
    return [f"# {_keeping_indent(line)}".rstrip() for line in lines]


def _keeping_indent(line: str) -> str:
    return " " * (len(line) - len(line.lstrip(" "))) + _one_line(line)
