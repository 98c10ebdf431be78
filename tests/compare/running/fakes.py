"""Runs of a fake trainer, and processes that train them."""

import ctypes
import hashlib
import multiprocessing
import os
import runpy
import signal
import sys
import time
from pathlib import Path

from focal_plugin.compare.plan.comparison import Run
from focal_plugin.compare.running.claim import Lease
from focal_plugin.compare.running.engines import Options
from focal_plugin.compare.running.run_one import Task
from focal_plugin.compare.running.runner import SweepInterruptedError, run_all

TRAINER = (str(Path(__file__).with_name("fake_trainer.py")),)
LEASE = Lease(beat_s=0.1, expiry_s=3.0)
PATIENCE_S = 300  # generous limit for steps that take a moment on an idle machine


def fake_run(arm="CE", seed=1, *, steps=5, step_s=0.01, behavior="", datasets=()):
    """Return a run; fake_trainer.py lists the values of ``behavior``."""
    opts = ("STEPS", str(steps), "STEP_S", str(step_s), "BEHAVIOR", behavior)
    return Run(
        arm=arm,
        seed=seed,
        config_file="/config.yaml",
        opts=opts,
        datasets=datasets,
        config_hash=hashlib.sha256(f"{arm} {seed} {opts}".encode()).hexdigest(),
        iterations=steps,
    )


def fake_task(folder, run=None, **more):
    run = run or fake_run()
    fields = {"directory": folder, "lease": LEASE, "trainer": TRAINER, **more}
    return Task(run=run, folder=folder / run.id, **fields)


def fake_options(**more):
    return Options(**{"lease": LEASE, "trainer": TRAINER, "jobs": 2, **more})


def in_background(function, *arguments):
    """
    Start a process that runs ``function``.

    It is a fork, because importing Detectron2 takes seconds. Ctrl-C and SIGHUP reach it even if the
    tests run in the background or under nohup, which ignore them.
    """

    def body():
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the tests
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        function(*arguments)

    process = multiprocessing.get_context("fork").Process(target=body, daemon=True)
    process.start()
    return process


class ForkedPython:
    """
    Replacement of `subprocess.Popen` for `python -m MODULE ARGUMENTS` by a fork.

    It is a fork of this process, because importing Detectron2 takes seconds.
    """

    def __init__(self, command, *, env, stdout=None, stderr=None, shell=False, encoding=None):
        assert command[0] == sys.executable
        assert not shell
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                self._run(command[command.index("-m") + 1 :], env, stdout, stderr)
                code = 0
            except SystemExit as end:
                code = end.code
            finally:
                os._exit(code)

    @staticmethod
    def _run(command, env, stdout, stderr):
        os.environ.clear()
        os.environ.update(env)
        for number, file in ((1, stdout), (2, stderr)):
            if file is not None:
                os.dup2(file.fileno(), number)
        sys.argv = command
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)


def sweep(runs, folder, options=None):
    """Run a sweep, and exit with the exit code of the command."""
    with open(os.devnull, "w") as stream:
        try:
            statuses = run_all(runs, folder, options or fake_options(), stream=stream)
        except SweepInterruptedError as error:
            sys.exit(error.exit_code)
    failures = [status for status in statuses if status.state != "done"]
    if failures:
        sys.exit(f"not done: {failures}")  # exit code 1


def lines_of(file):
    return file.read_text().splitlines() if file.exists() else []


def trainers(folder):
    """Return the process ids of the trainers of a run, the latest one last."""
    return [int(line.split()[0]) for line in lines_of(folder / "starts")]


def is_alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(condition, process=None):
    """Wait for a condition; fail if ``process``, which it depends on, ends."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert process is None or process.is_alive(), "what was waited for has ended"
        time.sleep(0.02)
