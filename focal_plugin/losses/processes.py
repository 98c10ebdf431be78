"""Statistics over the processes of a training job, one process included."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def mean_over_processes(statistic: Tensor) -> Tensor:
    """
    The mean over all processes of a tensor of the same shape in each; no gradient.

    DistributedDataParallel takes the mean of gradients, not their sum: a loss divided by the *mean*
    count of all processes has the gradient of one process with the whole batch.

    Returns:
        a new tensor; where there is one process only, a copy.
    """
    mean = statistic.detach().clone()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(mean)
        mean = mean / torch.tensor(distributed.get_world_size(), device=mean.device)
    return mean
