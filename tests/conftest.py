"""
Shared fixtures. The data set root of the whole run is a temporary folder, set before anything
imports Detectron2, so that tests neither find a user's data nor leave any behind.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

DATASET_ROOT = tempfile.mkdtemp(prefix="focal_plugin_tests_")
os.environ["DETECTRON2_DATASETS"] = DATASET_ROOT

from focal_plugin.data import ShapesSpec, draw_dataset, register_shapes  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def pytest_sessionfinish():
    shutil.rmtree(DATASET_ROOT, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_shapes() -> Path:
    """Twelve images of shapes, registered as "tiny_shapes"; the folder that holds them."""
    folder = Path(DATASET_ROOT) / "tiny_shapes"
    spec = ShapesSpec(images=12, image_size=64, distractors=(2, 4), radius=(6, 12), seed=7)
    draw_dataset(spec, folder)
    register_shapes("tiny_shapes", spec, folder)
    return folder
