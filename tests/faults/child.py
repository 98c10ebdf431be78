"""
Processes of these tests: they run `python train_net.py ...` with all imports already done.

The server that forks such processes imports this file.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from focal_plugin.engine.train import invoke_main

from ..forked import (
    ROOT,
    behave_like_a_command,
    end_as_python_does,
    fork_ranks,
    redirect_output,
)
from .planted import Plant


def run(arguments: Sequence[str], log: Path, control: Path, plants: Sequence[Plant]) -> None:
    """
    Train in this process, which behaves like one that a shell starts.

    It has its own session, output and exit code, and default signal handlers.

    Args:
        arguments: command line of `train_net.py`.
        log: file for stdout and stderr.
        control: folder in which plants and tests exchange their progress.
        plants: faults.
    """
    redirect_output(log, log)
    behave_like_a_command()
    fork_ranks()
    for plant in plants:
        plant.plant(control)
    end_as_python_does(lambda: _train(*arguments))


def run_torchrun(
    arguments: Sequence[str], log: Path, control: Path, plants: Sequence[Plant], processes: int
) -> None:
    """
    Train in the processes of a torchrun.

    They come from a separate fork server: torchrun has threads, and a fork of a process with
    threads may hang.
    """
    redirect_output(log, log)
    behave_like_a_command()
    multiprocessing.set_forkserver_preload([__name__])
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="forkserver",
    )
    elastic_launch(launch, _train_as_worker)(log, *arguments)


def _train_as_worker(log: Path, *arguments: str) -> None:
    redirect_output(log, log)
    behave_like_a_command()
    _train(*arguments)


def _train(*arguments: str) -> None:
    sys.argv = [str(ROOT / "train_net.py"), *arguments]
    invoke_main()
