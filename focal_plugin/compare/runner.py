"""Trains the runs of a comparison, one process each, and takes up where it was interrupted."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from detectron2.data import MetadataCatalog
from tqdm import tqdm

import focal_plugin

from ..doctor import detectron2_runtime
from .results import (
    RESULT_FILE,
    Result,
    read_average_precision,
    read_iteration_s,
    read_metrics,
    read_peak_gpu_memory_mib,
    read_progress,
)
from .spec import Run

TRAIN_NET = Path(focal_plugin.__file__).resolve().parents[1] / "train_net.py"
POLL_S = 0.5
STOP_S = 30.0
LOG_TAIL = 15
FINGERPRINT_FILE = "fingerprint"
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class RunFailedError(RuntimeError):
    """A run whose process ended with an error; the message names its log and ends with it."""


def run_all(runs: list[Run]) -> tuple[list[Result], list[str]]:
    """
    Train what is not finished; one run's failure does not keep the others from running.

    Returns:
        the results, in the order of ``runs``, and the messages of the runs that failed.

    Raises:
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP, after the running process has ended.
        ValueError: a folder holds a run, finished or not, of another config.
    """
    for run in runs:
        refuse_another_config(run)
    results, failures = [], []
    with _ended_like_ctrl_c():
        for number, run in enumerate(runs, start=1):
            label = f"[{number}/{len(runs)}] {run.name}"
            result = Result.read(run.folder)
            if result is not None:
                tqdm.write(f"{label}: done already")
            else:
                try:
                    result = _train(run, label)
                except RunFailedError as error:
                    tqdm.write(f"{label}: failed. {error}")
                    failures.append(f"{run.name}: {error}")
                    continue
            results.append(result)
    return results, failures


def refuse_another_config(run: Run) -> None:
    """
    Raises:
        ValueError: the folder holds a run, finished or not, that another config started.
    """
    to_go_on_with = ("last_checkpoint", RESULT_FILE)
    if not any((run.folder / name).exists() for name in to_go_on_with):
        return
    file = run.folder / FINGERPRINT_FILE
    if not file.exists() or file.read_text(encoding="utf-8").strip() != run.fingerprint():
        raise ValueError(
            f"{run.folder} holds a run made with another config; "
            "choose another --output, or remove it"
        )


def _train(run: Run, label: str) -> Result:
    run.folder.mkdir(parents=True, exist_ok=True)
    log = run.folder / "train.log"
    with _exclusive(run.folder) as lock:
        (run.folder / FINGERPRINT_FILE).write_text(run.fingerprint() + "\n", encoding="utf-8")
        with log.open("a", encoding="utf-8") as output:
            returncode, peak_rss_mib = _run_process(run, label, output, lock)
        if returncode != 0:
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:]
            message = f"exit code {returncode}, log in {log}, which ends with:"
            raise RunFailedError("\n".join([message, *tail]))
        try:
            result = _collect(run, peak_rss_mib)
        except ValueError as error:
            raise RunFailedError(f"{error}, log in {log}") from error
        result.write(run.folder)
    return result


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[TextIO]:
    """
    A lock on the folder, which a trainer inherits and holds even where its parent was killed.

    Raises:
        RunFailedError: another process holds it.
    """
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFailedError(f"another process is training in {folder}") from error
        yield lock


def _run_process(run: Run, label: str, output: TextIO, lock: TextIO) -> tuple[int, float]:
    """Returns the exit code of the trainer and its largest resident set, MiB."""
    command = [sys.executable, str(TRAIN_NET), "--resume", "--config-file", str(run.config_file)]
    total = run.resolved_cfg().SOLVER.MAX_ITER
    done_before = min(read_progress(run.folder).iteration, total)
    terminal = sys.stderr.isatty()
    bar = tqdm(
        total=total,
        initial=done_before,
        desc=label,
        unit="it",
        mininterval=0.5 if terminal else 15.0,  # a log file gets a line now and then
        dynamic_ncols=terminal,
    )
    process = subprocess.Popen(
        [*command, *run.all_opts],
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        pass_fds=[lock.fileno()],
    )
    with bar:
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                _show(bar, run.folder)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    return process.returncode, usage.ru_maxrss / 1024
                time.sleep(POLL_S)
        except BaseException:
            _stop(process)
            raise


def _show(bar: tqdm, folder: Path) -> None:
    progress = read_progress(folder)
    iteration = min(progress.iteration, bar.total)  # v0.5 counts the evaluation as one more
    if iteration <= bar.n:
        return
    if progress.total_loss is not None:
        bar.set_postfix_str(f"loss {progress.total_loss:.3f}", refresh=False)
    bar.update(iteration - bar.n)
    if iteration == bar.total:
        bar.set_postfix_str("evaluating")


def _stop(process: subprocess.Popen) -> None:
    """Let the trainer close its files; a second Ctrl-C, or half a minute, ends it at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(timeout=STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _collect(run: Run, peak_rss_mib: float) -> Result:
    metrics = read_metrics(run.folder)
    ap, ap_per_class = read_average_precision(metrics)
    classes = MetadataCatalog.get(run.resolved_cfg().DATASETS.TEST[0]).thing_classes
    gpu_memory_mib = read_peak_gpu_memory_mib(run.folder)
    return Result(
        arm=run.arm,
        seed=run.seed,
        ap=ap,
        ap_per_class={name: ap_per_class.get(name) for name in classes},
        iterations=run.resolved_cfg().SOLVER.MAX_ITER,
        iteration_s=read_iteration_s(metrics),
        peak_memory_mib=peak_rss_mib if gpu_memory_mib is None else gpu_memory_mib,
        fingerprint=run.fingerprint(),
        versions={
            "python": platform.python_version(),
            "torch": importlib.metadata.version("torch"),
            "detectron2": detectron2_runtime(),
            "focal_plugin": importlib.metadata.version("focal_plugin"),
        },
    )


@contextlib.contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a closed terminal, end the trainer too, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
