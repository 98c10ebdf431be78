"""
Names of the files that a run leaves in its `OUTPUT_DIR`.

`engine` writes the files of a run, and `compare` adds its own files and reads both. `config.yaml`,
`metrics.json`, `log.txt`, `last_checkpoint` and the files below `inference` have the names that
Detectron2 gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

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

VALIDATION_PREFIX = "validation/"
"""Prefix of the keys in `metrics.json` of the losses on fixed test images."""

LOG_FILE = "log.txt"
"""Log of Detectron2, text."""

LAST_CHECKPOINT = "last_checkpoint"
"""Name of the checkpoint to resume from, text."""

FINAL_WEIGHTS = "model_final.pth"
"""Checkpoint of a finished run."""

DETECTIONS_FOLDER = "inference"
DETECTIONS_NAME = "coco_instances_results.json"
"""Detections of the last evaluation on a test set, a JSON list in COCO's result format."""
DETECTIONS_FILE = f"{DETECTIONS_FOLDER}/{DETECTIONS_NAME}"
"""The same, if there is only one test set."""

THRESHOLDS_NAME = "score_thresholds.json"
"""F1-best score threshold of each class, beside the detections, a JSON object."""

AUGMENTED_DETECTIONS_FOLDER = "inference_TTA"
"""Detections of the evaluation with test-time augmentation, as in :data:`DETECTIONS_FOLDER`."""

DIAGNOSTICS_FOLDER = "diagnostics"
MOMENTS = ("start", "final")
"""Moments of training at which a run writes snapshots and the balance of its losses."""

TRAIN_LOG_FILE = "train.log"
"""Standard output and standard error of the trainer, text."""

STATUS_FILE = "status.json"
"""State of the run as `focal-compare` sees it, a JSON object."""

RESULT_FILE = "result.json"
"""Result of a finished run, a JSON object. The file exists only once the run is done."""


def detections_folder(test_set: str, test_sets: Sequence[str], *, augmented: bool = False) -> str:
    """
    Return the folder of the detections on a test set, below `OUTPUT_DIR`.

    If there are several test sets, each has its own folder, so that no file is overwritten.

    Args:
        test_set: one of ``test_sets``.
        test_sets: `DATASETS.TEST`.
        augmented: the folder of the evaluation with test-time augmentation.
    """
    folder = AUGMENTED_DETECTIONS_FOLDER if augmented else DETECTIONS_FOLDER
    return folder if len(set(test_sets)) < 2 else f"{folder}/{quote(test_set, safe='')}"


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


def balance_file(folder: Path, moment: str) -> Path:
    """
    Return the file of the balance of both losses.

    Args:
        folder: `OUTPUT_DIR` of the run.
        moment: one of :data:`MOMENTS`.
    """
    return folder / DIAGNOSTICS_FOLDER / f"balance_{moment}.json"


def validation_key(loss: str) -> str:
    """
    Return the key in `metrics.json` of a loss on fixed test images.

    The key does not contain "loss", because Detectron2 prints each such scalar in every log line,
    also long after its iteration.

    Args:
        loss: name of a training loss, such as "loss_cls" or "total_loss".
    """
    return VALIDATION_PREFIX + loss.replace("total_loss", "total").replace("loss_", "", 1)
