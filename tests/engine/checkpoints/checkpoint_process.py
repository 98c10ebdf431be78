"""
Functions that test_checkpointer.py runs in two processes; see tests/modeling/two_processes.py.

The fork server imports this file.
"""

import time

import torch
from detectron2.utils import comm
from torch import nn

from focal_plugin.engine.checkpoints import checkpointer as checkpoint
from focal_plugin.engine.checkpoints.checkpointer import Checkpointer, CheckpointError


class Counting(nn.Module):
    """Module with a weight, a constant, and each kind of buffer that may differ by process."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("mean", torch.tensor(100.0), persistent=False)
        self.register_buffer("constant", torch.tensor([1.0, 2.0]), persistent=False)

    def see(self, number):
        """Update the buffers like a training with other data in each process."""
        self.mean.fill_(number)
        self.norm.running_mean.fill_(number)

    def seen(self):
        return [self.mean.item(), self.norm.running_mean[0].item()]


def make(folder, **options):
    torch.manual_seed(0)
    model = Counting()
    optimizer = torch.optim.SGD(model.layer.parameters(), lr=0.1, momentum=0.9)
    checkpointer = Checkpointer(
        model, str(folder), optimizer=optimizer, **{"identity": {"SEED": 1}, **options}
    )
    return model, checkpointer


def own_buffers(folder, number):
    """Save the buffers of each process; return those after resuming, and after a new start."""
    model, checkpointer = make(folder)
    model.see(number)
    checkpointer.save("model_0000009", iteration=9)
    comm.synchronize()
    resumed, checkpointer = make(folder)
    checkpointer.resume_or_load("", resume=True)
    evaluated, checkpointer = make(folder, identity=None)
    checkpointer.load(str(folder / "model_0000009.pth"), checkpointables=[])
    return resumed.seen(), evaluated.seen()


def buffers_that_are_alike(folder):
    model, checkpointer = make(folder)
    model.see(5.0)
    checkpointer.save("model_0000009", iteration=9)


def first_cannot_save(folder):
    """Return the time of each process if the weights of the first are not finite."""
    model, checkpointer = make(folder)
    if comm.is_main_process():
        model.layer.weight.data.fill_(float("nan"))
    start = time.monotonic()
    try:
        checkpointer.save("model_0000009", iteration=9)
    except CheckpointError as error:
        return str(error), time.monotonic() - start
    return "", time.monotonic() - start


def resume(folder, shared):
    """Return the error or the buffers; without ``shared`` one process has no checkpoint."""
    model, checkpointer = make(folder)
    reads = checkpoint.read_weights
    if not shared:
        checkpoint.read_weights = lambda file, **_: reads(file / "elsewhere", **_)
    try:
        checkpointer.resume_or_load("", resume=True)
    except CheckpointError as error:
        return str(error)
    finally:
        checkpoint.read_weights = reads
    return model.seen()
