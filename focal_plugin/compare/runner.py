"""Trains the runs of a comparison, one process each, and takes up where it was interrupted."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from detectron2.data import MetadataCatalog
from tqdm import tqdm

import focal_plugin

from ..doctor import detectron2_runtime
from .results import (
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


class RunFailedError(RuntimeError):
    """A run whose process ended with an error; the message names its log and ends with it."""


def run_all(runs: list[Run]) -> tuple[list[Result], list[str]]:
    """
    Train what is not finished; one run's failure does not keep the others from running.

    Returns:
        the results, in the order of ``runs``, and the messages of the runs that failed.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the running process has ended.
        ValueError: a finished run was made with another config.
    """
    for run in runs:
        _refuse_another_config(run)
    results, failures = [], []
    with _sigterm_as_interrupt():
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


def _refuse_another_config(run: Run) -> None:
    result = Result.read(run.folder)
    if result is not None and result.fingerprint != run.fingerprint():
        raise ValueError(
            f"{run.folder} holds a run made with another config; "
            "choose another --output, or remove it"
        )


def _train(run: Run, label: str) -> Result:
    run.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(TRAIN_NET), "--resume", "--config-file", str(run.config_file)]
    log = run.folder / "train.log"
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*command, *run.all_opts],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )
        peak_rss_mib = _wait(process, run, label)
    if process.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:]
        raise RunFailedError(
            "\n".join([f"exit code {process.returncode}, log in {log}, which ends with:", *tail])
        )
    result = _collect(run, peak_rss_mib)
    result.write(run.folder)
    return result


def _wait(process: subprocess.Popen, run: Run, label: str) -> float:
    """Show the progress until the process ends; returns its largest resident set, MiB."""
    total = run.resolved_cfg().SOLVER.MAX_ITER
    terminal = sys.stderr.isatty()
    interval = 0.5 if terminal else 15.0  # a log file gets a line now and then
    bar = tqdm(total=total, desc=label, unit="it", mininterval=interval, dynamic_ncols=terminal)
    with bar:
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                _show(bar, run.folder)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    return usage.ru_maxrss / 1024
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            _stop(process)
            raise


def _show(bar: tqdm, folder: Path) -> None:
    progress = read_progress(folder)
    iteration = min(progress.iteration, bar.total)  # v0.5 counts the evaluation as one more
    if iteration == bar.n:
        return
    if bar.n == 0:  # what a resumed run did before is not counted into the speed
        bar.initial = iteration
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
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
