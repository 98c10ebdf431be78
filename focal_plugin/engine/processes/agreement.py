"""Joint decisions of the processes of a training, so that none waits for another in vain."""

from __future__ import annotations

import torch
from detectron2.utils import comm
from torch import distributed


def on_any_process(flag: bool, device: torch.device | str) -> bool:
    """
    Return True if ``flag`` is set in any process; all processes must call this function.

    Args:
        device: a device that the processes' backend can send from.
    """
    if comm.get_world_size() == 1:
        return flag
    flags = torch.tensor(int(flag), device=device)
    distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
    return bool(flags.item())
