"""
Processes forked from the server of `tests/conftest.py`.

They start in milliseconds, while a new Python takes seconds to import PyTorch and Detectron2.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from typing import Any

from focal_plugin.engine.processes import ranks

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 300

NARROW = {
    "MODEL.FOCAL.SMALL_RESNET.WIDTHS": [8, 12, 16, 24],
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.FPN.OUT_CHANNELS": 32,  # group norm has 32 groups
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
}
"""A small model of configs/Shapes-Detection with few layers, for tests that ignore the weights."""


def run_script(
    script: Path, *arguments: Any, prepare: Callable[[], None] | None = None
) -> CompletedProcess[str]:
    """
    Run `python SCRIPT ARGUMENTS` in the root of the repository, in a forked process.

    Args:
        prepare: called in that process before the script runs; must be importable.

    Returns:
        exit code, stdout and stderr.
    """
    command = [str(script), *map(str, arguments)]
    with TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=_run_script, args=(command, files, prepare))
        process.start()
        process.join()
        texts = [file.read_text() if file.exists() else "" for file in files]
    return CompletedProcess(command, process.exitcode, *texts)


def _run_script(command: list[str], files: list[Path], prepare: Callable[[], None] | None) -> None:
    redirect_output(*files)
    behave_like_a_command()
    if prepare is not None:
        prepare()
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")


def redirect_output(stdout: Path, stderr: Path) -> None:
    """Write the output of this process and its children into files."""
    for stream, file in ((sys.stdout, stdout), (sys.stderr, stderr)):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        stream.flush()
        os.dup2(descriptor, stream.fileno())
        stream.reconfigure(line_buffering=True)
        os.close(descriptor)


def behave_like_a_command() -> None:
    """Give this process the properties of a shell command: session, folder, default signals."""
    os.setsid()
    reset_signals()
    os.chdir(ROOT)
    multiprocessing.set_start_method("fork", force=True)  # for data workers, unlike the server


def reset_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def fork_ranks() -> None:
    """
    Fork the processes of `--num-gpus 2`, so that they do not import everything again.

    Each process waits until all exist. The store of this process resolves the names of its clients,
    and a fork during that call keeps the resolver's lock forever.
    """
    run_rank, watch = ranks._run_rank, ranks._watch
    all_started = multiprocessing.get_context("fork").Event()

    def run_rank_later(*arguments: Any) -> None:
        reset_signals()
        all_started.wait(PATIENCE_S)
        run_rank(*arguments)

    def watch_all(*arguments: Any) -> Any:
        all_started.set()
        return watch(*arguments)

    ranks._run_rank, ranks._watch = run_rank_later, watch_all
    ranks.START_METHOD = "fork"


def end_as_python_does(main: Callable[[], Any]) -> None:
    """Call ``main``; Ctrl-C ends the process by its signal, as it ends Python."""
    try:
        main()
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
