"""A valid COCO dataset of four images, and random changes to its annotation file."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
NAN, INFINITE = float("nan"), float("inf")
LISTS = ("images", "annotations", "categories")

SCALARS = (
    *(None, True, False, 0, 1, 2, -1, 3, 0.0, 1.0, 1.5, -0.5, NAN, INFINITE, -INFINITE),
    *(1e-9, 1e11, 1e39, 1e300, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**400),
    *("", " ", "0", "1", "a", "nan", "false", "\ud800", "a\0b", "\x1b[31m", "é", "x" * 300),
)
NESTED: tuple[Any, ...] = ([], {}, [[]], [None], [1], [[[1]]], {"id": 1}, [0, 0, 5, 5], "[1, 2]")

SEGMENTATIONS: tuple[Any, ...] = (
    *([], [[]], [[], []], {}, None, "", "polygon", 1, NAN, [1, 2], [None]),
    *([[1, 1, 5, 5]], [[1, 1, 5, 1, 5]], [1, 1, 5, 1, 5, 5], [[[1, 1], [5, 1], [5, 5]]]),
    *([[[1, 1, 5, 1, 5, 5]]], [["1", "1", "5", "1", "5", "5"]], [[1, 1, 5, 1, 5, None]]),
    *([[1, 1, NAN, 1, 5, 5]], [[1, 1, INFINITE, 1, 5, 5]], [[1, 1, 1e39, 1, 5, 5]]),
    *([[1, 1, 5, 1, 5, 5], []], [[1, 1, 5, 1, 5, 5], [1, 1]], [[3] * 6], [[900] * 6]),
    *({"size": [HEIGHT, WIDTH]}, {"counts": "", "size": [HEIGHT, WIDTH]}, {"counts": [10]}),
    *({"counts": [WIDTH * HEIGHT], "size": [HEIGHT, WIDTH]}, {"counts": [1], "size": [1, 1]}),
    *({"counts": [-1, 9], "size": [HEIGHT, WIDTH]}, {"counts": "é", "size": [HEIGHT, WIDTH]}),
    *({"counts": [9], "size": [HEIGHT, "64"]}, {"counts": [9.5], "size": [HEIGHT, WIDTH]}),
)
BOXES: tuple[Any, ...] = (
    *([], [1, 2, 3], [1, 2, 3, 4, 5], ["1", "2", "3", "4"], [None] * 4, [[1, 2, 3, 4]], "1 2 3 4"),
    *([1, 2, 0, 4], [1, 2, 3, -4], [NAN, 2, 3, 4], [1, 2, INFINITE, 4], [1, 2, 1e39, 4]),
    *([3e38, 2, 3e38, 4], [900, 2, 3, 4], [-50, 2, 3, 4], [1, 2, 1e-7, 4], [0.1, 0.2, 0.3, 0.4]),
    *([1, 2, 10**400, 4], [True, 2, 3, 4], {"x": 1, "y": 2, "w": 3, "h": 4}, [1, 2, 900, 900]),
)
FILE_NAMES = (
    *("", " ", ".", "..", "/", "1.png/", "../images/1.png", "/etc/hostname", "missing.png"),
    *("1.PNG", "images\\1.png", "http://localhost/1.png", "a\0.png", "x" * 5000, "\ud800.png"),
    *("2.png", "./1.png", "1.png\n", "~/1.png", 1, None, ["1.png"], "//1.png", "empty.png"),
)
ID_CHANGES: tuple[Callable[[int], Any], ...] = (
    *(str, float, lambda i: -i, lambda i: i - 1, lambda i: f"img_{i}", lambda i: 7 * i + 1000),
    *(lambda i: i + 2**40, lambda i: i + 2**53, lambda i: i + 2**62, lambda i: i + 2**63),
    *(lambda i: i + 2**64, lambda i: i + 0.5, lambda i: [i], lambda i: None, lambda i: i + 1e16),
    *(lambda i: i + 10**400, lambda i: True, lambda i: 1e308 * 10, lambda i: float(i) + 2**54),
    *(lambda i: float(i) if i % 2 else i, lambda i: str(i) if i % 2 else i, lambda i: i // 2),
    *(lambda i: i + 2**53 if i % 2 else float(i), lambda i: "x" * 50 * i, lambda i: f"{i}\0"),
)
FIELDS: dict[str, tuple[Any, ...]] = {
    "segmentation": SEGMENTATIONS,
    "bbox": BOXES,
    "file_name": FILE_NAMES,
    "iscrowd": (None, "0", "1", "false", "", [], 2, -1, 0.5, 1.0, True, False, NAN, 1, {}),
    "area": (0, -5, None, NAN, INFINITE, 1e11, 1e300, "5", [], True, 10**400, 1e-3, 100000),
    "category_id": (0, 3, -1, None, "1", 1.0, True, 1.5, NAN, [1], {}, 2**63, 2),
    "image_id": (0, 9, -1, None, "1", 1.0, True, 1.5, NAN, [1], {}, 2**63, 2),
    "width": (0, -1, None, "64", 64.0, 48, 1e39, NAN, 10**400, True, 64.5, [64]),
    "height": (0, -1, None, "48", 48.0, 64, 1e39, NAN, 10**400, True, 48.5, [48]),
    "name": ("", None, "a", "b", 1, ["a"], "\ud800", "a\nb", "x" * 1000, True, " "),
    "keypoints": ([], [1, 2, 2], [1, 2], "x", [None] * 3, {}, [NAN, 1, 2]),
    "ignore": (0, 1, None, "0", True, []),
    "id": SCALARS,
}


class Mutant(NamedTuple):
    """A changed annotation file, and a word on each change."""

    raw: bytes
    changes: tuple[str, ...]


def valid_dataset(folder: Path) -> dict[str, Any]:
    """Write four images to ``folder``, and return the content of a valid annotation file."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, 5):
        pixels = np.full((HEIGHT, WIDTH, 3), 40 * image_id, dtype=np.uint8)
        pixels[::3] = 7
        Image.fromarray(pixels).save(folder / f"{image_id}.png")
        images.append(
            {"id": image_id, "file_name": f"{image_id}.png", "width": WIDTH, "height": HEIGHT}
        )
        for place in range(3):
            x, y, width, height = 2 + 20 * place, 3 + image_id, 10 + image_id, 12 + place
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1 + place % 2,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
                }
            )
    crowd = {"counts": [10, 20, WIDTH * HEIGHT - 30], "size": [HEIGHT, WIDTH]}
    annotations[-1] |= {"iscrowd": 1, "segmentation": crowd}
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def mutate(valid: dict[str, Any], seed: str) -> Mutant:
    """Return one to three random changes of a valid file; the same for the same seed."""
    draw = random.Random(seed)
    content = copy.deepcopy(valid)
    changes = [draw.choice(CHANGES)(content, draw) for _ in range(draw.choice((1, 1, 1, 2, 3)))]
    raw = json.dumps(content).encode()
    if draw.random() < 0.06:
        name, change = draw.choice(list(FILE_CHANGES.items()))
        raw, changes = change(raw, draw), [*changes, name]
    return Mutant(raw, tuple(changes))


def _entries(content: dict[str, Any], draw: random.Random) -> tuple[str, list[Any]]:
    """Return one, some or all objects of one list, and the name of the list."""
    key = draw.choice(("images", "annotations", "annotations", "annotations", "categories"))
    usable = [entry for entry in _list(content, key) if isinstance(entry, dict)]
    number = draw.choice((1, 1, len(usable) // 2, len(usable)))
    return key, draw.sample(usable, min(number, len(usable)))


def _list(content: dict[str, Any], key: str) -> list[Any]:
    entries = content.get(key)
    return entries if isinstance(entries, list) else []


def _short(value: Any) -> str:
    return f"{value!r:.40}"


def change_field(content: dict[str, Any], draw: random.Random) -> str:
    """Set one key of some objects to a value that is wrong, or unusual, for this key."""
    key, entries = _entries(content, draw)
    if not entries:
        return "nothing"
    known = [field for field in FIELDS if field in entries[0]]
    field = draw.choice(known or ["id"]) if draw.random() < 0.9 else draw.choice(list(FIELDS))
    value = draw.choice(FIELDS[field])
    for entry in entries:
        entry[field] = copy.deepcopy(value)
    return f"{field} of {len(entries)} {key} = {_short(value)}"


def change_legally(content: dict[str, Any], draw: random.Random) -> str:
    """Write other legal values, so that the file is trained and evaluated in another way."""
    for annotation in _list(content, "annotations"):
        if not isinstance(annotation, dict) or draw.random() < 0.5:
            continue
        x, y = draw.uniform(-9, WIDTH - 2), draw.uniform(-9, HEIGHT - 2)
        width, height = draw.choice((1, 10)) * draw.uniform(0, 9), draw.uniform(0.1, 50)
        crowd = draw.random() < 0.1
        rle = {"counts": [100, 50, WIDTH * HEIGHT - 150], "size": [HEIGHT, WIDTH]}
        polygon = [x, y, x + width, y, x + width, y + height]
        annotation |= {
            "bbox": [x, y, width, height],
            "area": width * height * draw.uniform(0.4, 1),
            "iscrowd": draw.choice((1, True)) if crowd else draw.choice((0, False)),
            "image_id": draw.choice((1, 2, 3, 4.0)),
            "category_id": draw.choice((1, 2, 2.0)),
            "segmentation": rle if crowd else [polygon] * draw.choice((1, 1, 2)),
            "attributes": {"occluded": None},
        }
    for key in LISTS:
        draw.shuffle(_list(content, key))
    return "legal values"


def change_any_value(content: dict[str, Any], draw: random.Random) -> str:
    """Replace, delete or wrap a value at a random place."""
    place: Any = content
    path: list[Any] = []
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return "nothing"
        path.append(draw.choice(keys))
        value = place[path[-1]]
        if not isinstance(value, dict | list) or not value or draw.random() < 0.2:
            break
        place = value
    action = draw.choice(("replace", "replace", "delete", "list", "object", "text"))
    if action == "delete":
        del place[path[-1]]
    else:
        place[path[-1]] = {
            "replace": lambda: copy.deepcopy(draw.choice((*SCALARS, *NESTED))),
            "list": lambda: [value],
            "object": lambda: {"value": value},
            "text": lambda: str(value)[:100],
        }[action]()
    return f"{action} {'/'.join(map(str, path))}"


def change_ids(content: dict[str, Any], draw: random.Random) -> str:
    """Change all ids of one list, and the references to them in most cases."""
    key = draw.choice(LISTS)
    change = draw.randrange(len(ID_CHANGES))
    reference = {"images": "image_id", "categories": "category_id"}.get(key)
    follow = draw.random() < 0.8
    for entry in _list(content, key):
        _apply(entry, "id", ID_CHANGES[change])
    for entry in _list(content, "annotations") if reference and follow else ():
        _apply(entry, str(reference), ID_CHANGES[change])
    return f"ids of {key}, change {change}" + ("" if follow else ", without the references")


def change_references(content: dict[str, Any], draw: random.Random) -> str:
    """Write some references as another type."""
    _, entries = _entries(content, draw)
    field = draw.choice(("image_id", "category_id"))
    change = draw.choice((str, float))
    for entry in entries:
        _apply(entry, field, change)
    return f"{field} of {len(entries)} as {change.__name__}"


def _apply(entry: Any, key: str, change: Callable[[int], Any]) -> None:
    if isinstance(entry, dict) and type(entry.get(key)) is int and abs(entry[key]) < 1000:
        entry[key] = change(entry[key])


def change_entries(content: dict[str, Any], draw: random.Random) -> str:
    """Repeat, remove, replace or reorder the objects of a list."""
    key = draw.choice(LISTS)
    entries = _list(content, key)
    if not entries:
        return "nothing"
    action = draw.choice(("repeat", "repeat as new", "remove", "clear", "replace", "shuffle"))
    row = draw.randrange(len(entries))
    if action == "repeat":
        entries.insert(draw.randrange(len(entries)), copy.deepcopy(entries[row]))
    elif action == "repeat as new" and isinstance(entries[row], dict):
        entries.append({**copy.deepcopy(entries[row]), "id": 100})
    elif action == "remove":
        del entries[row]
    elif action == "clear":
        entries.clear()
    elif action == "replace":
        entries[row] = copy.deepcopy(draw.choice((*SCALARS, *NESTED)))
    else:
        draw.shuffle(entries)
    return f"{action} in {key}"


CHANGES = (
    *(change_field,) * 5,
    *(change_legally,) * 4,
    *(change_any_value,) * 2,
    *(change_ids, change_ids, change_references, change_entries),
)

FILE_CHANGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "byte-order mark": lambda raw, _: b"\xef\xbb\xbf" + raw,
    "UTF-16": lambda raw, _: raw.decode().encode("utf-16"),
    "truncated": lambda raw, draw: raw[: draw.randrange(len(raw))],
    "one byte changed": lambda raw, draw: _with_byte(raw, draw),
    "not UTF-8": lambda raw, _: raw.replace(b'"a"', b'"\xff"'),
    "key twice": lambda raw, _: raw[:-1] + b', "annotations": []}',
    "key of an object twice": lambda raw, _: raw.replace(b'"iscrowd": 0', b'"iscrowd": 0, "id": 1'),
    "trailing text": lambda raw, _: raw + b"]",
    "in a list": lambda raw, _: b"[" + raw + b"]",
    "empty": lambda raw, _: b"",
    "deep": lambda raw, _: b"[" * 100_000,
    "deep value": lambda raw, _: raw.replace(b'"a"', b"[" * 2000 + b"]" * 2000),
    "long number": lambda raw, _: raw.replace(b'"id": 2,', b'"id": ' + b"9" * 5000 + b","),
    "NUL": lambda raw, _: raw + b"\0",
}


def _with_byte(raw: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(raw))
    return raw[:place] + bytes([draw.randrange(256)]) + raw[place + 1 :]
