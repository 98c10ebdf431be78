"""Rules for pixels that Detectron2 reads as something else: 16 bits, floats and constant images."""

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

RULES_OF_PIXELS = ("image-mode", "image-constant")


def fault_of_pixels(path: str) -> tuple[str, str] | None:
    """
    Return the rule and the message if the model would not see what the file shows, or None.

    Raises:
        Exception: the file cannot be decoded; each decoder raises its own.
    """
    with Image.open(PathManager.get_local_path(path)) as image:
        mode = image.mode
        # Detectron2 cuts these modes to 0..255 instead of scaling them.
        stored = np.asarray(image) if mode in ("I", "F") or mode.startswith("I;16") else None
    if stored is not None and not _fits_8_bits(stored):
        span = f"{stored.min():g} to {stored.max():g}"
        return "image-mode", f"mode {mode}, pixels from {span}: {path}"
    pixels: Any = read_image(path, format="BGR")
    if pixels.size > pixels.shape[2] and (pixels == pixels[0, 0]).all():
        return "image-constant", f"all pixels are {pixels[0, 0].tolist()}: {path}"
    return None


def _fits_8_bits(stored: np.ndarray) -> bool:
    fits = bool(stored.min() >= 0 and stored.max() <= np.iinfo(np.uint8).max)
    is_fraction = stored.dtype.kind == "f" and stored.max() <= 1
    return fits and not is_fraction


def escalate_if_all(found: Findings, num_images: int) -> None:
    """Turn a rule for pixels into an error if it concerns all of the images."""
    for rule in RULES_OF_PIXELS:
        if num_images and found.counts[rule] == num_images:
            found.escalate(rule)


def check_a_few(images: Sequence[tuple[str, Any, str]], found: Findings) -> None:
    """
    Check the pixels of a few images; a file that cannot be decoded is left to the run.

    Args:
        images: description, id and path of each image.
    """
    places = np.linspace(0, len(images) - 1, min(NUM_TRIED, len(images))).astype(int)
    tried = 0
    for place in places:
        who, image_id, path = images[place]
        try:
            fault = fault_of_pixels(path)
        except Exception:  # each decoder raises its own
            continue
        tried += 1
        if fault is not None:
            found.add(fault[0], f"{who}: {fault[1]}", image_id=image_id)
    escalate_if_all(found, tried)
