"""Statistics over the processes of a training job, one process included."""

from __future__ import annotations

from torch import Tensor, distributed


def sum_over_processes(statistic: Tensor) -> Tensor:
    """
    The sum over all processes of a tensor of the same shape in each; no gradient.

    Returns:
        a new tensor; where there is one process only, a copy.
    """
    total = statistic.detach().clone()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(total)
    return total


def mean_over_processes(statistic: Tensor) -> Tensor:
    """
    Same interface as :func:`sum_over_processes`, but the mean.

    DistributedDataParallel takes the mean of gradients, not their sum: a loss divided by the *mean*
    count of all processes has the gradient of one process with the whole batch.
    """
    total = sum_over_processes(statistic)
    if distributed.is_available() and distributed.is_initialized():
        total = total / distributed.get_world_size()
    return total
