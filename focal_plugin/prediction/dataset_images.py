"""Images of the test set of a run, as far as its files still exist."""

from __future__ import annotations

import json
from pathlib import Path

from ..json_file import undamaged
from .trained_run import TrainedRun


def images_of_test_set(run: TrainedRun) -> list[Path]:
    """
    Return the image files of the first test set that the run recorded; [] if they are gone.

    Raises:
        DamagedFileError: its annotations are no COCO JSON. It is a ValueError.
    """
    data = next(iter(run.environment.test), None) if run.environment else None
    if data is None or not (data.json_file and data.image_root):
        return []
    file, root = Path(data.json_file), Path(data.image_root)
    names = undamaged(file, lambda: _names_in(file)) or []
    return [root / name for name in names if (root / name).is_file()]


def _names_in(file: Path) -> list[str]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return [image["file_name"] for image in content["images"]]
    except (KeyError, TypeError) as error:
        raise ValueError("it lists no images") from error
