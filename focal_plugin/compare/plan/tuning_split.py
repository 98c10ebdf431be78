"""
Tuning split of a training set: the images that the trials of a comparison train and test on.

A setting that is chosen by its AP on test images makes its arm look better there than on other
images. So the trials see images of the training set only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import MetadataCatalog

from ...data import DataError, coco_file_of, split_coco
from ...files import write_if_other
from .comparison import slug

SHARE = 0.2
"""Share of the images that the trials are evaluated on."""
SEED = 0
FOLDER = "tuning"
"""Folder of the splits below that of the comparison."""


@dataclass(frozen=True)
class Part:
    """
    One of the two parts of a training set, as a dataset of its own.

    Attributes:
        dataset: its name in a run.
        json_file: COCO file, relative to the folder of the comparison.
        image_root: folder of the images; absolute.
        images: number of images.
        content: content of the file. It has no paths, so it is the same on every machine.
        sha256: digest of the content.
    """

    dataset: str
    json_file: Path
    image_root: Path
    images: int
    content: bytes
    sha256: str

    @property
    def argument(self) -> str:
        """The part in the form of `train_net.py --dataset`."""
        return f"{self.dataset}={self.json_file}:{self.image_root}"


@dataclass(frozen=True)
class TuningSplit:
    """
    Split of a training set.

    Attributes:
        train: the images that trials train on.
        val: the images that they are evaluated on; copies of an image are all in one part.
    """

    train: Part
    val: Part

    @property
    def parts(self) -> tuple[Part, Part]:
        """Both parts."""
        return self.train, self.val


def split_training_set(name: str) -> TuningSplit:
    """
    Split a registered training set, stratified by class.

    Its ignore regions are crowd regions in both parts, as in the dataset itself.

    Args:
        name: name of the dataset. It stays unchanged.

    Raises:
        ValueError: the dataset has no COCO file, is not evaluated as COCO, or has too few images.
    """
    try:
        image_root = coco_file_of(name).image_root.absolute()
        metadata = MetadataCatalog.get(name)
        if metadata.get("evaluator_type", "coco") != "coco":
            raise DataError(f"the evaluation of {name} is that of {metadata.evaluator_type}")
        json_file = Path(metadata.json_file)
        content = json.loads(json_file.read_text(encoding="utf-8"))
        split = split_coco(content, image_root, share=SHARE, seed=SEED)
    except DataError as error:
        raise ValueError(f"the trials need a split of the training set {name}: {error}") from error
    if ":" in str(image_root) or "=" in name:
        raise ValueError(
            f'the trials need a split of the training set {name}: its name must not contain "=", '
            f'and its image directory {image_root} must not contain ":"'
        )
    parts = []
    for part, of_part in (("train", split.train), ("val", split.val)):
        text = json.dumps(of_part).encode()
        parts.append(
            Part(
                dataset=f"{name}_trials_{part}",
                json_file=Path(FOLDER, slug(name), f"{part}.json"),
                image_root=image_root,
                images=len(of_part["images"]),
                content=text,
                sha256=hashlib.sha256(text).hexdigest(),
            )
        )
    return TuningSplit(*parts)


def write_splits(splits: Iterable[TuningSplit], folder: Path) -> None:
    """Write the files of splits below the folder of a comparison, unless they are there already."""
    for part in (part for split in splits for part in split.parts):
        write_if_other(folder / part.json_file, part.content)
