"""Mixed precision in bfloat16, which Detectron2's trainer lacks. It also works on the CPU."""

from __future__ import annotations

import time

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from torch import Tensor

from ..checks import check_choice

PRECISIONS = ("", "float16", "bfloat16")
"""Supported values of `MODEL.FOCAL.AMP.PRECISION`."""


def amp_precision(cfg: CfgNode) -> torch.dtype | None:
    """
    Return the precision of a training step, or None without `SOLVER.AMP.ENABLED`.

    Raises:
        ValueError: `MODEL.FOCAL.AMP.PRECISION` is not supported, or is float16 on the CPU.
    """
    key = "MODEL.FOCAL.AMP.PRECISION"
    name = check_choice(key, cfg.MODEL.FOCAL.AMP.PRECISION, PRECISIONS)
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    on_cpu = cfg.MODEL.DEVICE == "cpu"
    if on_cpu and name == "float16":
        raise ValueError(f"{key} must be bfloat16 on the CPU (no gradient scaling), got float16")
    return getattr(torch, name or ("bfloat16" if on_cpu else "float16"))


class BFloat16Trainer(SimpleTrainer):
    """
    Trainer that runs the model under autocast to bfloat16, on the model's device.

    It has the interface of :class:`detectron2.engine.SimpleTrainer`. Detectron2's `AMPTrainer`
    requires CUDA and a gradient scaler. bfloat16 has the range of float32, so its gradients require
    no scaling.
    """

    def run_step(self) -> None:
        """Run one step; weights, gradients and losses stay in float32."""
        assert self.model.training, "the model was changed to eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16):
            losses = self.model(data)
        if isinstance(losses, Tensor):
            losses = {"total_loss": losses}
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        if hasattr(self, "after_backward"):  # missing in Detectron2 0.6
            self.after_backward()
        self._write_metrics(losses, data_time)
        self.optimizer.step()
