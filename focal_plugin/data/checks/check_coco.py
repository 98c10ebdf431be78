"""
What is wrong with a data set, found before the first iteration.

Detectron2 flips a box of negative width into one at another place, puts the objects of two images
with one id on one of them, and notices an image that is not there when it is its turn.
"""

from __future__ import annotations

from pathlib import Path

from .dict_rules import check_dicts
from .facts import facts_of, read_content
from .findings import DataError, Finding, Findings, Report
from .image_files import check_image_files
from .impossible_boxes import drop_impossible_boxes

__all__ = [
    "DataError",
    "Finding",
    "Report",
    "check_coco",
    "check_dicts",
    "drop_impossible_boxes",
]


def check_coco(
    json_file: Path,
    image_root: Path | None,
    *,
    allow_outside_root: bool = False,
    decode_images: bool = False,
    max_json_mib: float | None = None,
) -> Report:
    """
    Apply every rule of :data:`focal_plugin.data.checks.rules.RULES` that is about one COCO json.

    Args:
        json_file: of COCO's form, or meant to be.
        image_root: the folder that file names are relative to. None: image files are not looked
            for.
        allow_outside_root: image files may lie elsewhere.
        decode_images: decode each image; takes milliseconds for each.
        max_json_mib: a larger file is an error and is not read. None: any size.

    Raises:
        FileNotFoundError: the file or the folder is not there.
    """
    json_file = Path(json_file).absolute()
    if not json_file.is_file():
        raise FileNotFoundError(f"no file {json_file}")
    if image_root is not None and not Path(image_root).is_dir():
        raise FileNotFoundError(f"{json_file}: no image directory {image_root}")
    content = read_content(json_file, max_json_mib=max_json_mib)
    found = Findings()
    found.extend(content.findings)
    if image_root is not None:
        found.extend(
            check_image_files(
                content.images,
                Path(image_root),
                allow_outside_root=allow_outside_root,
                decode=decode_images,
            )
        )
    root = None if image_root is None else str(image_root)
    return found.report(facts_of(json_file, root, content), file=json_file, image_root=image_root)
