"""Warning about a training that is too short for its result to mean anything."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode

from ..data import describe_dataset

logger = logging.getLogger(__name__)

FEW_ITERATIONS = 100
"""Iterations below which no detector has learned anything, whatever its data."""


def warn_if_too_short(cfg: CfgNode) -> None:
    """Log a warning if the training was too short for its result to mean anything."""
    reasons = shortages(cfg)
    if reasons:
        logger.warning(f"This run is too short for a result: {'; '.join(reasons)}")


def shortages(cfg: CfgNode) -> list[str]:
    """Return what a training lacks: iterations, iterations after its warm-up, or images."""
    solver, reasons = cfg.SOLVER, []
    if solver.MAX_ITER < FEW_ITERATIONS:
        reasons.append(f"SOLVER.MAX_ITER is {solver.MAX_ITER}")
    if solver.MAX_ITER <= solver.WARMUP_ITERS:
        reasons.append(f"it ends within the {solver.WARMUP_ITERS} SOLVER.WARMUP_ITERS")
    images = sum(describe_dataset(name)["images"] or 0 for name in cfg.DATASETS.TRAIN)
    seen = solver.MAX_ITER * solver.IMS_PER_BATCH
    if seen < images:
        reasons.append(f"it sees {seen} of {images} training images")
    return reasons
