"""Config of each arm: of its file, its named arms and all options of the spec."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ... import arms
from ...config import get_cfg
from ...data import check_classes, num_classes_of_model, use_datasets
from .arm_errors import naming
from .score_threshold import score_threshold_options
from .spec_arms import ArmSpec
from .spec_file import Spec


def read_config(file: Path) -> CfgNode:
    """Return the config of a file, whose device may be "auto"."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "auto"
    cfg.merge_from_file(str(file))
    return cfg


def merged(arm: ArmSpec, spec: Spec, read: Callable[[Path], CfgNode]) -> tuple[CfgNode, list[str]]:
    """Return the config of an arm with all options of the spec, and these options."""
    cfg = read(arm.config_file).clone()
    opts = arms.apply(cfg, *arm.names)
    cfg.merge_from_list(list(arm.opts))
    with naming("opts"):
        cfg.merge_from_list(list(spec.opts))
    return cfg, [*opts, *arm.opts, *spec.opts]


def resolve(
    arm: ArmSpec, spec: Spec, read: Callable[[Path], CfgNode]
) -> tuple[tuple[str, ...], CfgNode]:
    """Return the options that all runs of an arm share, and the config with them."""
    cfg, opts = merged(arm, spec, read)
    cut_off = score_threshold_options(cfg, opts, spec.score_threshold)
    cfg.merge_from_list(cut_off)
    opts += cut_off
    if cfg.SOLVER.MAX_ITER < 1:
        raise ValueError(f"SOLVER.MAX_ITER must be >= 1, got {cfg.SOLVER.MAX_ITER}")
    if spec.iterations is not None:
        budget = _scaled_schedule(cfg, spec.iterations)
        cfg.merge_from_list(budget)
        opts += budget
    before = (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    names = [dataset.name for dataset in spec.datasets]
    use_datasets(cfg, names, opts=opts, training=True)
    if spec.part:
        opts += _classes_of(cfg, opts)
    if before != (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST):
        opts += ["DATASETS.TRAIN", str(cfg.DATASETS.TRAIN)]
        opts += ["DATASETS.TEST", str(cfg.DATASETS.TEST)]
    fixed = ["MODEL.FOCAL.INIT", spec.initial_weights]
    fixed += ["MODEL.FOCAL.DIAGNOSTICS.PERIOD", str(spec.diagnostics)]
    cfg.merge_from_list(fixed)
    if not cfg.DATASETS.TEST:
        raise ValueError(f"DATASETS.TEST must name a dataset, got {cfg.DATASETS.TEST}")
    check_classes(cfg)
    return (*opts, *fixed, *_evaluations(cfg, spec.evaluations)), cfg


def _classes_of(cfg: CfgNode, opts: Sequence[str]) -> list[str]:
    """Return the option that sets the number of classes to that of the training set."""
    found = num_classes_of_model(cfg)
    classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
    if found is None or classes is None or found[0] in opts[::2]:
        return []
    option = [found[0], str(len(classes))]
    cfg.merge_from_list(option)
    return option


def _evaluations(cfg: CfgNode, number: int) -> list[str]:
    """
    Return the option for a number of evaluations, the last of which is after training.

    The option is not in the config, so that it does not change the hash of a run: an evaluation has
    no effect on the weights. PreciseBN is the exception.
    """
    if not number:
        return []
    period = math.ceil(cfg.SOLVER.MAX_ITER / number) if number > 1 else 0
    option = ["TEST.EVAL_PERIOD", str(period)]
    if cfg.TEST.PRECISE_BN.ENABLED:
        cfg.merge_from_list(option)
    return option


def _scaled_schedule(cfg: CfgNode, iterations: int) -> list[str]:
    """
    Return the options that scale a schedule to ``iterations``.

    `SOLVER.STEPS` and `WARMUP_ITERS` scale in proportion, rounded, at least 1; a warm-up of 0 stays
    0. Equal steps become one. A step at the end is dropped, because Detectron2 rejects it.
    """
    solver, factor = cfg.SOLVER, iterations / cfg.SOLVER.MAX_ITER
    scaled = dict.fromkeys(max(1, round(step * factor)) for step in solver.STEPS)
    steps = tuple(step for step in scaled if step < iterations)
    warmup = max(1, round(solver.WARMUP_ITERS * factor)) if solver.WARMUP_ITERS else 0
    return [
        *("SOLVER.MAX_ITER", str(iterations)),
        *("SOLVER.STEPS", repr(steps)),
        *("SOLVER.WARMUP_ITERS", str(warmup)),
    ]
