#!/usr/bin/env python3
"""
Use a loss without a config or a detector.

    python examples/focal_loss_alone.py

Prints the loss of an easy and a hard example, and the share of all easy examples in the total.
"""

import torch

from focal_plugin.losses import sigmoid_cross_entropy_loss, sigmoid_focal_loss

BACKGROUND = 1  # with one class, label 0 is the object, 1 the background, and -1 is ignored
NUM_EASY = 100_000


def main() -> None:
    logits = torch.full((NUM_EASY + 1, 1), -5.0)  # sigmoid(-5) = 0.007
    labels = torch.full((NUM_EASY + 1,), BACKGROUND)
    labels[0] = 0  # one object, which the detector misses
    losses = {
        "cross entropy": sigmoid_cross_entropy_loss,
        "focal loss, alpha .25, gamma 2": sigmoid_focal_loss,
    }
    print(f"{'':32}{'one hard':>12}{'one easy':>12}{'share of all easy':>20}")
    for name, loss in losses.items():
        hard = loss(logits[:1], labels[:1]).item()
        easy = loss(logits[1:2], labels[1:2]).item()
        share = loss(logits[1:], labels[1:]).item() / loss(logits, labels).item()
        print(f"{name:32}{hard:12.4g}{easy:12.4g}{share:20.1%}")


if __name__ == "__main__":
    main()
