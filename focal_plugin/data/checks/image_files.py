"""Checks of the image files of a dataset: existence, location, format, size and pixels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from detectron2.data.detection_utils import read_image
from tqdm import tqdm

from .coco_rules import ListedImage
from .findings import Findings
from .pixels import check_a_few, escalate_if_all, fault_of_pixels


def check_image_files(
    images: Sequence[ListedImage], image_root: Path, *, allow_outside_root: bool, decode: bool
) -> Findings:
    """
    Check that the image files exist, lie in the image folder and can be decoded.

    Args:
        images: images with file names relative to ``image_root``.
        allow_outside_root: allow files elsewhere, by "..", an absolute name or a link.
        decode: open and decode each image; a terminal shows a progress bar. False: only the
            size and the pixels of a few images are checked.
    """
    found = Findings()
    there = []
    location = _Location(image_root)
    for image in images:
        path, is_inside = location.of(image.file_name)
        if not (is_inside or allow_outside_root):
            message = f"{_who(image)}: {os.path.realpath(path)}"
            found.add("image-outside-root", message, image_id=image.image_id)
        elif not (_can_be_file(path) and os.path.isfile(path)):
            message = f"{_who(image)}: file not found: {path}"
            found.add("image-missing", message, image_id=image.image_id)
        else:
            there.append((image, path))
    if decode:
        for image, rule, message in _decode_all(there):
            found.add(rule, f"{_who(image)}: {message}", image_id=image.image_id)
        escalate_if_all(found, len(there))
    else:
        few = [
            (_who(image), image.image_id, path, (image.width, image.height))
            for image, path in there
        ]
        check_a_few(few, found)
    return found


class _Location:
    """
    Resolves file names like `os.path.realpath`.

    It resolves each folder once, and a file only if the file is a link: a dataset has many files in
    few folders.
    """

    def __init__(self, image_root: Path) -> None:
        self._root = str(image_root)
        self._real_root = os.path.realpath(image_root)
        self._is_inside: dict[str, bool] = {}

    def of(self, file_name: str) -> tuple[str, bool]:
        """
        Return the path of a file and whether it is below the image folder.

        A name that cannot be a file counts as below it.
        """
        path = os.path.join(self._root, file_name)
        if not _can_be_file(path):
            return path, True
        folder, base = os.path.split(path)
        if base in ("", ".", "..") or os.path.islink(path):
            return path, self._contains(os.path.realpath(path))
        if folder not in self._is_inside:
            self._is_inside[folder] = self._contains(os.path.realpath(folder))
        return path, self._is_inside[folder]

    def _contains(self, real_path: str) -> bool:
        return os.path.commonpath([self._real_root, real_path]) == self._real_root


def _can_be_file(path: str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _decode_all(images: list[tuple[ListedImage, str]]) -> Iterator[tuple[ListedImage, str, str]]:
    """Yield the image, the rule and the message of each finding, in the order of the images."""
    # Decoding releases the GIL.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        problems = pool.map(_decode, images)
        progress = tqdm(problems, total=len(images), unit="images", disable=None)
        for (image, _), problem in zip(images, progress, strict=True):
            if problem is not None:
                yield image, *problem


def _decode(image_and_path: tuple[ListedImage, str]) -> tuple[str, str] | None:
    image, path = image_and_path
    try:
        pixels: Any = read_image(path, format="BGR")  # applies the EXIF orientation, as in training
    except Exception as error:  # each decoder raises its own
        return "image-unreadable", f"{path}: {type(error).__name__}: {error}"
    return fault_of_pixels(path, pixels, (image.width, image.height))


def _who(image: ListedImage) -> str:
    return f"image {image.image_id} ({image.file_name})"
