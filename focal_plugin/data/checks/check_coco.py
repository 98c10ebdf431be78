"""
Check of a COCO dataset before the first iteration.

Detectron2 turns a box of negative width into a box at another place. If two images share an id, it
assigns the objects of both to one of them. It notices a missing image only when it loads it.
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
    Apply every rule of :data:`focal_plugin.data.checks.rules.RULES` that concerns one COCO JSON.

    Args:
        json_file: annotation file in COCO format.
        image_root: folder that file names are relative to. None: image files are not checked.
        allow_outside_root: allow image files outside ``image_root``.
        decode_images: decode each image, which takes milliseconds per image.
        max_json_mib: size limit; a larger file is an error and is not read. None: no limit.

    Raises:
        FileNotFoundError: the file or the folder does not exist.
    """
    json_file = Path(json_file).absolute()
    if not json_file.is_file():
        raise FileNotFoundError(f"file not found: {json_file}")
    if image_root is not None and not Path(image_root).is_dir():
        raise FileNotFoundError(f"{json_file}: image directory not found: {image_root}")
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
