"""
Names of the files that a run leaves in its `OUTPUT_DIR`.

`engine` writes the files of a run, and `compare` adds its own files and reads both. `config.yaml`,
`metrics.json`, `log.txt`, `last_checkpoint` and the files below `inference` have the names that
Detectron2 gives them.
"""

from __future__ import annotations

from pathlib import Path

CONFIG_FILE = "config.yaml"
"""Resolved config of the run, YAML."""

ENVIRONMENT_FILE = "env.json"
"""Versions, commit, device, seed and facts of the datasets, a JSON object."""

START_FILE = "start.json"
"""Digests of the initial weights and of the first batches, a JSON object."""

METRICS_FILE = "metrics.json"
"""Logged numbers, one JSON object per line; each has the key `iteration`."""

GRADIENT_NORM_KEY = "diagnostics/parameter_gradient_norm"
"""Key in `metrics.json` of the gradient norm of all parameters, before clipping."""

LOG_FILE = "log.txt"
"""Log of Detectron2, text."""

LAST_CHECKPOINT = "last_checkpoint"
"""Name of the checkpoint to resume from, text."""

DETECTIONS_FOLDER = "inference"
DETECTIONS_FILE = "inference/coco_instances_results.json"
"""Detections of the last evaluation, a JSON list in COCO's result format."""

AUGMENTED_DETECTIONS_FOLDER = "inference_TTA"
"""Detections of the evaluation with test-time augmentation, as in :data:`DETECTIONS_FOLDER`."""

DIAGNOSTICS_FOLDER = "diagnostics"
MOMENTS = ("start", "final")
"""Moments of training at which a run writes snapshots."""

TRAIN_LOG_FILE = "train.log"
"""Standard output and standard error of the trainer, text."""

STATUS_FILE = "status.json"
"""State of the run as `focal-compare` sees it, a JSON object."""

RESULT_FILE = "result.json"
"""Result of a finished run, a JSON object. The file exists only once the run is done."""


def snapshot_file(folder: Path, moment: str, part: str) -> Path:
    """
    Return the file of a snapshot.

    Args:
        folder: `OUTPUT_DIR` of the run.
        moment: one of :data:`MOMENTS`.
        part: dense part of the detector, such as "retinanet" or "rpn".
    """
    return folder / DIAGNOSTICS_FOLDER / f"{moment}_{part}.npz"


def snapshot_files(folder: Path, moment: str) -> list[Path]:
    """
    Return the snapshots that a run wrote at one of :data:`MOMENTS`, sorted by name.
    """
    return sorted((folder / DIAGNOSTICS_FOLDER).glob(f"{moment}_*.npz"))
