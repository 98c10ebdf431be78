"""
Runner of functions in two processes that communicate through gloo.

The functions are those that tests/modeling/test_processes.py runs there, and in its own process for
comparison. The fork server of `tests/conftest.py`, which starts the processes, imports this file.
"""

import pickle
import time
from datetime import timedelta

import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from focal_plugin.engine.processes.process_group import leave_process_group
from focal_plugin.losses.processes import mean_over_processes, sum_over_processes
from focal_plugin.modeling.balance import BALANCES
from focal_plugin.modeling.normalizer import NORMALIZERS

PROCESSES = 2
LIMIT_S = 300
"""Seconds after which a hang is a failure."""


def in_two_processes(tasks, folder):
    """
    Call each function in both processes, one after the other.

    A test that calls it requires the fixture `fork_server`.

    Args:
        tasks: name -> (function, (arguments in the first process, arguments in the second)).
        folder: an empty folder.

    Returns:
        name -> [result in the first process, result in the second].

    Raises:
        TimeoutError: the processes hang; they are killed.
    """
    deadline = time.monotonic() + LIMIT_S
    # As bytes, because the processes would share tensors.
    context = torch.multiprocessing.start_processes(
        _process,
        (pickle.dumps(tasks), folder),
        nprocs=PROCESSES,
        join=False,
        daemon=True,
        start_method="forkserver",
    )
    try:
        while not context.join(timeout=max(deadline - time.monotonic(), 0)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"two processes did not end within {LIMIT_S} s")
    finally:
        for process in context.processes:
            process.kill()
            process.join()
    of_rank = [pickle.loads((folder / f"rank{rank}").read_bytes()) for rank in range(PROCESSES)]
    return {name: [results[name] for results in of_rank] for name in tasks}


def _process(rank, tasks, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=LIMIT_S),
    )
    results = {
        name: function(*arguments[rank])
        for name, (function, arguments) in pickle.loads(tasks).items()
    }
    (folder / f"rank{rank}").write_bytes(pickle.dumps(results))
    leave_process_group()


def model_gradients(cfg, batch):
    """Return the gradient of each parameter; with several processes, as Detectron2 trains."""
    torch.manual_seed(0)
    model = step = build_model(cfg)
    if distributed.is_initialized():
        step = DistributedDataParallel(model, broadcast_buffers=False)
    with EventStorage():
        losses = step(batch)
    sum(losses.values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def divisors(name, steps):
    """Return the divisors at each step; ``steps``: number of positives of each image."""
    normalizer = NORMALIZERS[name]()
    return [normalizer(torch.tensor(num_pos)).item() for num_pos in steps]


def balance_factors(name, steps):
    """
    Return the two factors of each step, and the buffers after the last step.

    Args:
        steps: slopes of both losses with respect to a shared feature, which is 1.
    """
    balance = BALANCES[name]()
    factors = []
    for slopes in steps:
        feature = torch.ones(1, requires_grad=True)
        losses = [slope * feature.sum() for slope in slopes]
        with EventStorage():
            balanced = balance(*losses, shared=[feature])
        factors.append([(new / old).item() for new, old in zip(balanced, losses, strict=True)])
    return factors, dict(balance.named_buffers())


def loss_steps(make_loss, steps):
    """
    Return a pair for each step and the buffers after the last step.

    A pair is the loss and its gradient in the first argument.
    """
    loss = make_loss()
    pairs = []
    for prediction, truth in steps:
        prediction = prediction.clone().requires_grad_()
        value = loss(prediction, truth)
        pairs.append((value.detach(), torch.autograd.grad(value, prediction)[0]))
    return pairs, dict(loss.named_buffers())


def reductions(statistic):
    """Return sum, mean, the statistic afterwards, and True if anything has a gradient."""
    statistic = torch.tensor(statistic, requires_grad=True)
    total, mean = sum_over_processes(statistic), mean_over_processes(statistic)
    has_gradient = total.requires_grad or mean.requires_grad
    return total.tolist(), mean.tolist(), statistic.tolist(), has_gradient
