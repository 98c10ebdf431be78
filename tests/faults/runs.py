"""Training processes and their output."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..forked import NARROW, ROOT
from ..tools import load_tool
from . import child
from .planted import Plant

check_resume = load_tool("check_resume")

QUICK = ROOT / "configs/quick_schedules"
ONE_STAGE = QUICK / "retinanet_small_instant_test.yaml"
TWO_STAGE = QUICK / "faster_rcnn_small_instant_test.yaml"
DRAWS_AND_COUNTS = {
    "config": TWO_STAGE,
    "MODEL__ROI_HEADS__NAME": "SampledROIHeads",
    "MODEL__FOCAL__ROI_HEADS__SAMPLER__POSITIVES": "instance_balanced",
    "MODEL__FOCAL__ROI_HEADS__SAMPLER__NEGATIVES": "iou_balanced",
    "MODEL__FOCAL__ROI_HEADS__CLS_LOSS__NAME": "SeesawLoss",
    "MODEL__FOCAL__ROI_HEADS__BALANCE__NAME": "guided",
    "MODEL__FOCAL__ROI_HEADS__BALANCE__LEARNED": True,
    "MODEL__FOCAL__RPN__BALANCE__NAME": "self",
    "MODEL__FOCAL__RPN__BALANCE__PERIOD": 2,
}
"""Keys of a two-stage run whose RPN and box head draw at random, and whose loss counts RoIs."""
WARMS_UP_AND_BALANCES = {
    "MODEL__FOCAL__ASSIGNER__NAME": "tal",
    "MODEL__FOCAL__ASSIGNER__TAL_WARMUP": 0.8,
    "MODEL__FOCAL__BALANCE__NAME": "equal_gradient",
}
"""Keys of a one-stage run whose assigner changes in its course, and whose balance has a state."""
ITERATIONS = 8
PERIOD = 3
"""Checkpoint period: checkpoints follow the iterations 2 and 5, and the end."""

TWO_PROCESSES = ("--num-gpus", 2, "--dist-url", "auto")
"""Flags for two processes with a free port, because several tests may run at once."""

PATIENCE_S = 300
"""Time limit in seconds for operations of about a second; a hang would last forever."""
SOON_S = 60
"""Time in seconds for a job to end after one of its processes has failed."""

COMMON = {
    "DATASETS.TRAIN": "('tiny',)",
    "DATASETS.TEST": "('tiny',)",
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.CHECKPOINT_PERIOD": PERIOD,
    "INPUT.MIN_SIZE_TRAIN": "(64, 72)",
    "INPUT.MIN_SIZE_TEST": 64,
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.DEVICE": "cpu",
    **NARROW,
    # This gives boxes to compare, but not thousands.
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 50,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
}


_one_at_a_time = threading.Lock()
"""Lock: starting a process polls all others, and an exit code can be read only once."""


def wait_until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


class Run:
    """A started training process, seen from outside."""

    def __init__(self, process: Any, output: Path, log: Path, control: Path) -> None:
        self.process = process
        self.output = output
        self.log = log
        self._control = control

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        """Return the output of stdout and stderr."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def last_line(self) -> str:
        return self.text.rstrip().rpartition("\n")[2]

    def ended(self) -> bool:
        return _exit_code(self.process) is not None

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Return the exit code; a negative one is the number of the signal that killed it."""
        _join(self.process, patience_s)
        code = _exit_code(self.process)
        assert code is not None, f"the process hangs:\n{self.text[-3000:]}"
        return code

    def succeed(self) -> Run:
        assert self.wait() == 0, self.text[-3000:]
        return self

    def held(self, rank: int = 0) -> int:
        """Wait until the process reaches its breakpoint, and return its id."""
        file = self._control / f"held{rank}"
        wait_until(lambda: file.exists() or self.ended())
        assert file.exists(), f"the process ended before:\n{self.text[-3000:]}"
        return json.loads(file.read_text())

    def go_on(self) -> Run:
        (self._control / "go").touch()
        return self

    def told(self, name: str) -> Any:
        """Return the content that a plant wrote, or None."""
        file = self._control / name
        return json.loads(file.read_text()) if file.exists() else None

    def connections(self) -> str:
        file = self._control / "connections"
        return file.read_text() if file.exists() else ""

    def send(self, number: int, *, group: bool = False) -> Run:
        (os.killpg if group else os.kill)(self.pid, number)
        return self

    def kill(self) -> Run:
        """Send SIGKILL to the single process that trains or that started the training ones."""
        self.send(signal.SIGKILL).wait()
        return self

    def started_at(self, iteration: int) -> bool:
        return f"Starting training from iteration {iteration}\n" in self.text

    def clean_up(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        _join(self.process, PATIENCE_S)


class Runs:
    """
    Starter of trainings.

    Args:
        folder: folder for default outputs, logs and control files.
        images: folder of a dataset with `annotations.json` and `images`, registered as "tiny".
    """

    _context = multiprocessing.get_context("forkserver")

    def __init__(self, folder: Path, images: Path) -> None:
        self.output = folder / "run"
        self._folder = folder
        self._images = images
        self._started: list[Run] = []
        self._numbers = itertools.count()

    def start(
        self,
        *flags: Any,
        output: Path | None = None,
        plants: Sequence[Plant] = (),
        config: Path = ONE_STAGE,
        images: Path | None = None,
        **keys: Any,
    ) -> Run:
        """
        Start a training.

        Args:
            flags: such as "--resume".
            keys: config keys with __ instead of the dot: `SOLVER__BASE_LR=1e6`.
        """
        arguments = self._arguments(flags, output, config, images, keys)
        return self._start(arguments, output, plants)

    def resume(self, *flags: Any, **options: Any) -> Run:
        return self.start("--resume", *flags, **options)

    def start_script(self, *flags: Any, **keys: Any) -> Run:
        """Start a new Python, as a user does, without any part of this test suite."""
        arguments = self._arguments(flags, None, ONE_STAGE, None, keys)
        log, control = self._files()
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "train_net.py"), *arguments],
                stdout=stream,
                stderr=stream,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
        return self._remember(Run(process, self.output, log, control))

    def clean_up(self) -> None:
        for run in self._started:
            run.clean_up()

    def start_torchrun(self, processes: int, **keys: Any) -> Run:
        """Start the equivalent of `torchrun --standalone --nproc-per-node N train_net.py`."""
        arguments = self._arguments((), None, ONE_STAGE, None, keys)
        return self._start(arguments, None, (), child.run_torchrun, processes)

    def _start(
        self,
        arguments: list[str],
        output: Path | None,
        plants: Sequence[Plant],
        target: Callable[..., None] = child.run,
        *more: Any,
    ) -> Run:
        log, control = self._files()
        process = self._context.Process(
            target=target, args=(arguments, log, control, plants, *more)
        )
        with _one_at_a_time:
            process.start()
        return self._remember(Run(process, output or self.output, log, control))

    def _remember(self, run: Run) -> Run:
        self._started.append(run)
        return run

    def _files(self) -> tuple[Path, Path]:
        number = next(self._numbers)
        control = self._folder / f"control{number}"
        control.mkdir()
        return self._folder / f"{number}.log", control

    def _arguments(
        self,
        flags: Sequence[Any],
        output: Path | None,
        config: Path,
        images: Path | None,
        keys: dict[str, Any],
    ) -> list[str]:
        images = images or self._images
        named = {key.replace("__", "."): value for key, value in keys.items()}
        opts = {**COMMON, "OUTPUT_DIR": output or self.output, **named}
        data = f"tiny={images}/annotations.json:{images}/images"
        pairs = (part for pair in opts.items() for part in pair)
        arguments = ["--config-file", config, "--dataset", data, *flags, *pairs]
        return [str(x) for x in arguments]


def _exit_code(process: Any) -> int | None:
    if isinstance(process, subprocess.Popen):
        return process.poll()
    with _one_at_a_time:
        return process.exitcode


def _join(process: Any, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while _exit_code(process) is None and time.monotonic() < deadline:
        time.sleep(0.01)


def differences(a: Path, b: Path) -> list[str]:
    """
    Return what differs bitwise between the final checkpoints and predictions of two runs.

    The comparison covers weights, optimizer, schedule, versions of the layers, and boxes.
    """
    checkpoints = [folder / "model_final.pth" for folder in (a, b)]
    assert len(dict(check_resume.entries(checkpoints[0]))) > 100
    different = check_resume.unequal(*checkpoints)
    predictions = [
        (folder / "inference/coco_instances_results.json").read_bytes() for folder in (a, b)
    ]
    assert len(json.loads(predictions[0])) > 10
    return different + ["predictions"] * (predictions[0] != predictions[1])


def not_finite(folder: Path) -> list[str]:
    """Return the tensors with a NaN or an infinity in all checkpoints of a folder."""
    return [
        f"{file.name}: {name}"
        for file in sorted(folder.glob("**/model_*.pth"))
        for name, x in check_resume.entries(file)
        if torch.is_tensor(x) and not torch.isfinite(x).all()
    ]


def content_of(folder: Path) -> dict[str, bytes]:
    """Return all files that a refused run must not change."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".train.lock"
    }


def copy_of(run: Path, to: Path) -> Path:
    return shutil.copytree(run, to, ignore=shutil.ignore_patterns(".train.lock"))


def checkpoint(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)
