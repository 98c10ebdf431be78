"""Statistics over the processes of a training job, one process included."""

from __future__ import annotations

from torch import Tensor, distributed


def sum_over_processes(statistic: Tensor) -> Tensor:
    """
    Sum a tensor of equal shape over all processes, without gradient.

    Returns:
        a new tensor; a copy if there is only one process.
    """
    total = statistic.detach().clone()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(total)
    return total


def mean_over_processes(statistic: Tensor) -> Tensor:
    """
    Average a tensor of equal shape over all processes, see :func:`sum_over_processes`.

    DistributedDataParallel averages gradients and does not sum them. A loss divided by the *mean*
    count of all processes therefore has the gradient of one process with the whole batch.
    """
    total = sum_over_processes(statistic)
    if distributed.is_available() and distributed.is_initialized():
        total = total / distributed.get_world_size()
    return total
