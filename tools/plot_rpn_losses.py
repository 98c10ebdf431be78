#!/usr/bin/env python3
"""
Draw `docs/images/rpn-box-losses.png`: the box losses of three RPNs and their gradients.

The curves show one coordinate of one anchor, before division by a number of anchors.

    python tools/plot_rpn_losses.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from focal_plugin.losses import BoxLoss, HuberLoss, L1Loss
from focal_plugin.modeling.rpn import STYLES

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "rpn-box-losses.png"
DELTA = STYLES["tensorpack"]["BOX_LOSS.HUBER_DELTA"]
BREAK = STYLES["matterport"]["BOX_LOSS.HUBER_DELTA"]
STD_X, _, STD_W, _ = STYLES["matterport"]["TARGET_STD"]


class Curve(NamedTuple):
    """Curve of factor * loss(r / std)."""

    label: str
    loss: BoxLoss
    std: float
    factor: float
    style: str

    def values_and_gradients(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and gradient of each residual, with no error in the other coordinates."""
        r = r.clone().requires_grad_()
        pred = torch.stack([r / self.std, *torch.zeros(3, len(r))], dim=1)
        values = self.factor * self.loss.per_box(pred, torch.zeros_like(pred))
        (gradients,) = torch.autograd.grad(values.sum(), r)
        return values.detach(), gradients


CURVES = (
    Curve("detectron2: L1", L1Loss(), 1, 1, "-k"),
    Curve("tensorpack: Huber(1/9) / (1/9)", HuberLoss(delta=DELTA), 1, 1, "-b"),
    Curve("matterport: smooth L1 of r / 0.1 (x, y)", HuberLoss(delta=BREAK), STD_X, 1, "-r"),
    Curve("matterport: smooth L1 of r / 0.2 (w, h)", HuberLoss(delta=BREAK), STD_W, 1, "--r"),
    Curve("by none of them: Huber(1/9), not divided", HuberLoss(delta=DELTA), 1, DELTA, ":b"),
    Curve("by none of them: smooth L1 of r, break at 1", HuberLoss(delta=BREAK), 1, 1, ":r"),
)


def draw() -> plt.Figure:
    """Draw values on the left and gradients on the right, log-log over the residual."""
    r = torch.logspace(-2.3, 0.3, 300)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), sharex=True)
    for curve in CURVES:
        values, gradients = curve.values_and_gradients(r)
        left.loglog(r, values, curve.style, label=curve.label)
        right.loglog(r, gradients, curve.style)
    left.set_ylabel("loss of one coordinate")
    right.set_ylabel("gradient")
    for axes in (left, right):
        axes.set_xlabel("residual r of a box delta, not scaled")
        axes.axvline(DELTA, color="b", linewidth=0.5)
        axes.axvline(STD_X, color="r", linewidth=0.5)
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.tight_layout()
    return figure


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    draw().savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
