"""
What a process of these tests does: it is `python train_net.py ...` with the imports already done.
The server that forks such processes imports this file, which is why it does not import
`tests.conftest`.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from focal_plugin.engine import ranks

from .planted import Plant

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import train_net  # noqa: E402

LATE = (
    "absl.logging",
    "faster_coco_eval",
    "pygments.formatters.terminal256",
    "pygments.lexers.data",
    "torch.utils.cpp_extension",
    "torch.utils.tensorboard",
)
"""What a training imports once it runs, where it is installed."""

for name in LATE:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)


def run(arguments: Sequence[str], log: Path, control: Path, plants: Sequence[Plant]) -> None:
    """
    Train in this process, which has all that one has that a shell starts: a session, an output,
    signals as they are at first, an exit code.

    Args:
        arguments: of `train_net.py`.
        log: gets stdout and stderr.
        control: where plants and tests tell each other how far they are.
        plants: faults.
    """
    os.setsid()
    _redirect_output(log)
    _reset_signals()
    os.chdir(ROOT)
    multiprocessing.set_start_method("fork", force=True)  # of data workers: the server's is its own
    _fork_ranks()
    for plant in plants:
        plant.plant(control)
    sys.argv = [str(ROOT / "train_net.py"), *arguments]
    try:
        train_net.invoke_main()
    except KeyboardInterrupt:  # what Python does at its end
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _redirect_output(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (sys.stdout, sys.stderr):
        standard.flush()
        os.dup2(descriptor, standard.fileno())
        standard.reconfigure(line_buffering=True)
    os.close(descriptor)


def _reset_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _fork_ranks() -> None:
    """The processes of `--num-gpus 2` need not import everything again either."""
    run_rank = ranks._run_rank

    def run_rank_with_signals_as_at_first(*arguments):
        _reset_signals()
        run_rank(*arguments)

    ranks._run_rank = run_rank_with_signals_as_at_first
    ranks.START_METHOD = "fork"
