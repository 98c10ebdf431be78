"""Image files that the arguments of a command name: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".webp", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)
"""Suffixes of the files in a folder that count as images. A file that is named always counts."""


def find_images(arguments: Iterable[str]) -> list[Path]:
    """
    Return the image files that arguments name, each once, in their order.

    Args:
        arguments: a file; a folder, with the images in all its subfolders; or a pattern such as
            "photos/**/*.jpg". Hidden files of a folder do not count.

    Returns:
        absolute paths. Those of a folder or a pattern are sorted.

    Raises:
        FileNotFoundError: an argument names no image.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        for file in _files_of(argument):
            found.setdefault(file.resolve(), Path(os.path.abspath(file)))
    return list(found.values())


def common_folder(files: Sequence[Path]) -> Path:
    """Return the deepest folder that holds all of these absolute paths."""
    return Path(os.path.commonpath([file.parent for file in files]))


def _files_of(argument: str) -> list[Path]:
    path = Path(argument).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        return [path]
    if not glob.has_magic(argument):
        raise FileNotFoundError(f"there is no image, folder or pattern {argument}")
    matches = (Path(match) for match in sorted(glob.glob(str(path), recursive=True)))
    files = [file for match in matches for file in _matched(match)]
    if not files:
        raise FileNotFoundError(f"no image matches {argument}")
    return files


def _matched(match: Path) -> list[Path]:
    return list(_walk(match)) if match.is_dir() else [match]


def _in_folder(folder: Path) -> list[Path]:
    files = list(_walk(folder))
    if not files:
        raise FileNotFoundError(f"the folder {folder} holds no image, such as a .jpg or .png file")
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)
