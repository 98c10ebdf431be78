"""Rules for decoded images: another size than stated, 16 bits, floats and constant pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.utils.file_io import PathManager
from PIL import Image

from .findings import Findings

NUM_TRIED = 16
"""Number of images, evenly spread over a dataset, that a check decodes in any case."""

Size = tuple[Any, Any]
"""Width and height, as stated."""

RULES_OF_PIXELS = ("image-mode", "image-constant")


def fault_of_pixels(path: str, pixels: Any, size: Size | None) -> tuple[str, str] | None:
    """
    Return the rule and the message if the model would not see what the dataset states, or None.

    Args:
        path: file of the image.
        pixels: (H, W, C), as Detectron2 reads them, in the EXIF orientation.
        size: as the dataset states it; None if it does not.

    Raises:
        Exception: the file cannot be decoded; each decoder raises its own.
    """
    height, width = pixels.shape[:2]
    if size is not None and (width, height) != size:
        stated = " x ".join(map(str, size))
        return "image-size-differs", f"the file is {width} x {height}, the annotations say {stated}"
    cut = cut_range(path)
    if cut is not None:
        return "image-mode", f"{cut}: {path}"
    if pixels.size > pixels.shape[2] and (pixels == pixels[0, 0]).all():
        return "image-constant", f"all pixels are {pixels[0, 0].tolist()}: {path}"
    return None


def cut_range(path: str) -> str | None:
    """
    Return mode and range of the pixels of a file that Detectron2 cuts to 0..255; None if it fits.

    Raises:
        Exception: the file cannot be decoded; each decoder raises its own.
    """
    with Image.open(PathManager.get_local_path(path)) as image:
        mode = image.mode
        # Detectron2 cuts these modes instead of scaling them.
        stored = np.asarray(image) if mode in ("I", "F") or mode.startswith("I;16") else None
    if stored is None or _fits_8_bits(stored):
        return None
    return f"mode {mode}, pixels from {stored.min():g} to {stored.max():g}"


def _fits_8_bits(stored: np.ndarray) -> bool:
    fits = bool(stored.min() >= 0 and stored.max() <= np.iinfo(np.uint8).max)
    is_fraction = stored.dtype.kind == "f" and stored.max() <= 1
    return fits and not is_fraction


def escalate_if_all(found: Findings, num_images: int) -> None:
    """Turn a rule for pixels into an error if it concerns all of the images."""
    for rule in RULES_OF_PIXELS:
        if num_images and found.counts[rule] == num_images:
            found.escalate(rule)


def check_a_few(images: Sequence[tuple[str, Any, str, Size | None]], found: Findings) -> None:
    """
    Check the size and the pixels of a few images; a file that cannot be decoded is left to the run.

    Args:
        images: description, id, path and stated size of each image.
    """
    places = np.linspace(0, len(images) - 1, min(NUM_TRIED, len(images))).astype(int)
    tried = 0
    for place in places:
        who, image_id, path, size = images[place]
        try:
            fault = fault_of_pixels(path, read_image(path, format="BGR"), size)
        except Exception:  # each decoder raises its own
            continue
        tried += 1
        if fault is not None:
            found.add(fault[0], f"{who}: {fault[1]}", image_id=image_id)
    escalate_if_all(found, tried)
