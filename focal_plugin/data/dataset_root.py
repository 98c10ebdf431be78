"""Folder of the datasets that Detectron2 knows by name."""

from __future__ import annotations

import os
from pathlib import Path


def dataset_root() -> Path:
    """Return Detectron2's dataset root, `$DETECTRON2_DATASETS` or `./datasets`."""
    return Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()
