"""
Detection on image files, with the pixels and the resizing of an evaluation.

A batch has images of one size only. So no image is padded for another one, and a detection does not
depend on the other images of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.structures import Instances
from PIL import UnidentifiedImageError
from torch import nn

from ..data.checks.pixels import cut_range

READ_AHEAD = 8
"""Batches of resized images in memory at once, and as many that are read meanwhile."""


@dataclass(frozen=True)
class Detected:
    """
    Detections on one image.

    Attributes:
        file: file of the image.
        width, height: size in the EXIF orientation, in which the boxes are.
        instances: all detections of the model, on the CPU, with boxes in pixels of this size.
        note: sentence on pixels that the model does not see as they are stored, or "".
    """

    file: Path
    width: int
    height: int
    instances: Instances
    note: str


@dataclass(frozen=True)
class Unreadable:
    """File that could not be read as an image, and why."""

    file: Path
    reason: str


@dataclass(frozen=True)
class _Read:
    file: Path
    entry: dict[str, Any]
    note: str


def detect(
    model: nn.Module, cfg: CfgNode, files: Sequence[Path], *, batch_size: int = 1
) -> Iterator[Detected | Unreadable]:
    """
    Detect objects on image files.

    Detectron2's mapper of the evaluation reads and resizes them: the keys `INPUT.FORMAT`,
    `INPUT.MIN_SIZE_TEST` and `INPUT.MAX_SIZE_TEST`, and the EXIF orientation. The memory does not
    depend on the number of files.

    Args:
        model: detector in evaluation mode.
        cfg: its config.
        files: image files.
        batch_size: images of one size that the model gets together.

    Yields:
        one result for each file, in their order. A file that cannot be read does not end it.

    Raises:
        ValueError: the GPU has not enough memory for a batch.
    """
    read = _reader(cfg)
    with ThreadPoolExecutor() as pool:
        for window in _windows(pool, read, files, READ_AHEAD * batch_size):
            images = [item for item in window if isinstance(item, _Read)]
            found = dict(_detect_all(model, images, batch_size))
            for item in window:
                yield item if isinstance(item, Unreadable) else found[item.file]


def read_input(cfg: CfgNode, file: Path) -> torch.Tensor:
    """
    Return an image as the model gets it in an evaluation.

    Returns:
        (C, H, W) uint8, resized, with the channels of `INPUT.FORMAT`.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    item = _reader(cfg)(file)
    if isinstance(item, Unreadable):
        raise ValueError(f"{file}: {item.reason}")
    return item.entry["image"]


def _reader(cfg: CfgNode) -> Callable[[Path], _Read | Unreadable]:
    mapper = DatasetMapper(cfg, is_train=False)

    def read(file: Path) -> _Read | Unreadable:
        try:
            entry = mapper({"file_name": str(file)})
            cut = cut_range(str(file))
        except Exception as error:  # each decoder raises its own
            return Unreadable(file, _reason(error))
        note = f"{file}: {cut}; they are cut to 0..255, as in training" if cut else ""
        return _Read(file, entry, note)

    return read


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        return "it is no image that Pillow knows"
    if isinstance(error, FileNotFoundError | PermissionError):
        return error.strerror or text
    return f"it cannot be read and resized ({text})"


def _windows(
    pool: ThreadPoolExecutor,
    read: Callable[[Path], _Read | Unreadable],
    files: Sequence[Path],
    size: int,
) -> Iterator[list[_Read | Unreadable]]:
    """Yield ``size`` images after the other, while the next ones are read."""
    chunks = [files[start : start + size] for start in range(0, len(files), size)]
    ahead: list[Future[_Read | Unreadable]] = []
    for chunk in [*chunks, []]:
        window, ahead = ahead, [pool.submit(read, file) for file in chunk]
        if window:
            yield [future.result() for future in window]


def _detect_all(
    model: nn.Module, images: Sequence[_Read], batch_size: int
) -> Iterator[tuple[Path, Detected]]:
    by_size: dict[torch.Size, list[_Read]] = {}
    for image in images:
        by_size.setdefault(image.entry["image"].shape, []).append(image)
    for group in by_size.values():
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            outputs = _outputs_of(model, [image.entry for image in batch])
            for image, output in zip(batch, outputs, strict=True):
                size = image.entry["width"], image.entry["height"]
                instances = output["instances"].to("cpu")
                yield image.file, Detected(image.file, *size, instances, image.note)


def _outputs_of(model: nn.Module, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        with torch.inference_mode():
            return model(batch)
    except torch.cuda.OutOfMemoryError as error:
        _, height, width = batch[0]["image"].shape
        raise ValueError(
            f"the GPU has not enough memory for {len(batch)} images of {width} x {height} at once: "
            "give a smaller --batch"
        ) from error
