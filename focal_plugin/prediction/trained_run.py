"""A trained run: its config, its weights and the names of its classes, read from `OUTPUT_DIR`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import nn

from ..compare.report.cells import count_text
from ..compare.runs.environment import Environment
from ..config import get_cfg, resolve_device
from ..data import num_classes_of_model
from ..engine import Checkpointer, CheckpointError
from ..engine.checkpoints.last import last_file
from ..engine.config_checks import building_explained, check_device
from ..engine.finite import wrong_weight
from ..json_file import DamagedFileError
from ..run_folder import CONFIG_FILE, FINAL_WEIGHTS, LAST_CHECKPOINT


@dataclass(frozen=True)
class TrainedRun:
    """
    Run whose weights exist.

    Attributes:
        folder: `OUTPUT_DIR` of the run.
        cfg: its config, for the device of this process.
        weights: file of the weights.
        has_other_weights: True if the weights are not those of the run.
        environment: what the run recorded of its datasets; None if that is lost.
    """

    folder: Path
    cfg: CfgNode
    weights: Path
    has_other_weights: bool
    environment: Environment | None

    @property
    def test_set(self) -> str | None:
        """Name of the first test set; None without any."""
        return next(iter(self.cfg.DATASETS.TEST), None)


@dataclass(frozen=True)
class TrainedModel:
    """
    Detector of a run, in evaluation mode.

    Attributes:
        class_names: one name for each class; "class 0", ... if neither the weights nor the run
            know them. The names of the weights come first: they are what their outputs mean.
        iterations: iterations that the weights were trained; None if their file does not say.
    """

    model: nn.Module
    class_names: tuple[str, ...]
    iterations: int | None


def read_run(folder: Path, *, weights: Path | None = None, device: str = "auto") -> TrainedRun:
    """
    Read the config of a run and find its weights, which are those of `last_checkpoint`.

    Args:
        folder: `OUTPUT_DIR` of the run.
        weights: other weights for the detector of the run.
        device: "auto", "cpu", "cuda", ...; the device of the training does not matter.

    Raises:
        FileNotFoundError: the folder has no config or no weights, or ``weights`` does not exist.
        KeyError, ValueError: the config is not one of this version, the device does not exist, or
            `last_checkpoint` is damaged.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no OUTPUT_DIR of a run: {_what_it_lacks(folder)}")
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    cfg.MODEL.DEVICE = device
    resolve_device(cfg)
    check_device(cfg.MODEL.DEVICE, key="--device")
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError(f"{file}: MODEL.LOAD_PROPOSALS is on, and new images have no proposals")
    if weights is not None and not weights.is_file():
        raise FileNotFoundError(f"--weights: there is no file {weights}")
    cfg.MODEL.WEIGHTS = str(weights or _own_weights(folder))
    try:
        environment = Environment.read(folder)
    except DamagedFileError:  # it adds facts that other files may have, too
        environment = None
    return TrainedRun(folder, cfg, Path(cfg.MODEL.WEIGHTS), weights is not None, environment)


def load_model(run: TrainedRun) -> TrainedModel:
    """
    Build the detector of a run and load its weights.

    Raises:
        ValueError: the weights are damaged, do not fit the config or are not finite.
    """
    with building_explained(run.cfg):
        model = build_model(run.cfg).eval()
    checkpointer = Checkpointer(model)
    try:
        content = checkpointer.load(str(run.weights), checkpointables=[])
        checkpointer.check_complete(remedy="Give the weights of this model as --weights")
    except CheckpointError as error:
        raise ValueError(str(error)) from error
    if problem := wrong_weight(model):
        raise ValueError(f"{run.weights}: {problem}; give other --weights")
    iteration = content.get("iteration")
    iterations = iteration + 1 if isinstance(iteration, int) else None
    return TrainedModel(model, class_names(run, checkpointer.loaded_class_names), iterations)


def class_names(run: TrainedRun, of_weights: tuple[str, ...]) -> tuple[str, ...]:
    """
    Return the first known names that are as many as the classes of the model.

    Args:
        of_weights: the names that the file of the weights has; () for none.

    Raises:
        ValueError: neither the names nor the number of the classes are known.
    """
    recorded = run.environment.train[:1] if run.environment else ()
    train = next(iter(run.cfg.DATASETS.TRAIN), "")
    candidates = (
        of_weights,
        run.cfg.MODEL.FOCAL.CLASS_NAMES,
        *(data.classes or () for data in recorded),
        MetadataCatalog.get(train).get("thing_classes", ()) if train else (),
    )
    _, count = num_classes_of_model(run.cfg) or ("", None)
    if count is None and not any(candidates):
        raise ValueError(f"no file of {run.folder} names the classes: set MODEL.FOCAL.CLASS_NAMES")
    fitting = (
        tuple(names) for names in candidates if names and len(names) == (count or len(names))
    )
    return next(fitting, tuple(f"class {i}" for i in range(count or 0)))


def progress_sentence(run: TrainedRun, model: TrainedModel) -> str:
    """Return a sentence on the weights, which says so if the training is unfinished."""
    total = run.cfg.SOLVER.MAX_ITER
    if model.iterations is None or run.has_other_weights:
        return f"Weights: {run.weights}."
    if model.iterations < total:
        return (
            f"The training is unfinished: the weights are those after iteration "
            f"{model.iterations} of {total} ({run.weights.name})."
        )
    return f"Weights: {run.weights}, after {count_text(model.iterations, 'iteration')}."


def _what_it_lacks(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder"
    runs = sorted(file.parent for file in folder.glob(f"*/{CONFIG_FILE}"))
    hint = f"; it holds {count_text(len(runs), 'run')}, such as {runs[0]}" if runs else ""
    return f"it has no {CONFIG_FILE}{hint}"


def _own_weights(folder: Path) -> Path:
    if (folder / LAST_CHECKPOINT).exists():
        try:
            return last_file(folder)
        except CheckpointError as error:
            raise ValueError(f"{error}; give the file of the weights as --weights") from error
    if (folder / FINAL_WEIGHTS).is_file():
        return folder / FINAL_WEIGHTS
    raise FileNotFoundError(
        f"{folder} has no weights, neither {LAST_CHECKPOINT} nor {FINAL_WEIGHTS}: train it, or "
        "give --weights FILE"
    )
