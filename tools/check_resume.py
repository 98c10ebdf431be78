#!/usr/bin/env python3
"""
Kill a training run at random moments, resume it, and compare it with an uninterrupted run.

The comparison covers the detections and all content of every checkpoint (weights, optimizer and
everything else), bit for bit.

    python tools/check_resume.py FOLDER                  # 100 kills of the laptop recipe
    python tools/check_resume.py FOLDER --kills 20 --num-gpus 2 SOLVER.MAX_ITER 60

FOLDER receives `reference/`, a log of each attempt, `run_<number>/` of the runs that differ, and
`kills.json`, with one line per kill. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
LAPTOP_RECIPE = ROOT / "configs/Shapes-Detection/retinanet_small.yaml"
STARTED = re.compile(r"Starting training from iteration (\d+)")
DETECTIONS = "inference/coco_instances_results.json"
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
"""Signals from which a kill is drawn."""

POLL_S = 0.02
START_S = 300.0
END_S = 3600.0


@dataclass(frozen=True)
class Kill:
    """
    One kill of a run.

    Attributes:
        start: first iteration of this attempt.
        after_s: time between start and kill.
        exit_code: exit code; negative for a signal.
    """

    run: int
    attempt: int
    signal: str
    start: int
    after_s: float
    exit_code: int


class Trial:
    """
    Run that is killed and resumed until it finishes.

    Args:
        command: command of the run, without its output folder.
        kill_within_s: an attempt is killed within this time after its start.
    """

    def __init__(
        self, number: int, folder: Path, command: Sequence[str], *, seed: int, kill_within_s: float
    ) -> None:
        self.number = number
        self.folder = folder
        self.kills: list[Kill] = []
        self._command = [*command, "OUTPUT_DIR", str(folder)]
        self._random = random.Random(f"{seed} {number}")
        self._within_s = kill_within_s

    def attempts(self, enough: Callable[[], bool]) -> Iterator[Kill]:
        """
        Yield each kill after it happens, until an attempt finishes.

        An attempt may finish once there are ``enough`` kills.
        """
        for attempt in range(sys.maxsize):
            number = self._random.choice(SIGNALS)
            after_s = END_S if enough() else self._random.uniform(0, self._within_s)
            output = self.folder.with_suffix(f".{attempt}.log")
            process = start(self._command, output)
            try:
                begun = wait_for_start(process, output)
                try:
                    process.wait(timeout=after_s)
                except subprocess.TimeoutExpired:
                    process.send_signal(number)
                code = process.wait(timeout=END_S)
            finally:
                process.kill()
            if code == 0:
                return
            kill = Kill(self.number, attempt, number.name, begun, round(after_s, 2), code)
            expected = {
                signal.SIGKILL: {-9},
                signal.SIGTERM: {143, -15},
                signal.SIGINT: {1, -2, 130},
            }
            if code not in expected[number]:
                raise RuntimeError(f"{kill}: unexpected exit code; see {output}")
            self.kills.append(kill)
            yield kill


def start(command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """Start a run with one thread: equal bits require equal thread counts, and runs share cores."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with output.open("wb") as stream:
        return subprocess.Popen(
            [*command], stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )


def wait_for_start(process: subprocess.Popen[bytes], output: Path) -> int:
    """
    Wait until training starts.

    Returns:
        the first iteration.

    Raises:
        RuntimeError: training does not start.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        found = STARTED.search(output.read_text(encoding="utf-8", errors="replace"))
        if found:
            return int(found[1])
        if process.poll() is not None:
            break
        time.sleep(POLL_S)
    raise RuntimeError(f"training did not start; see {output}")


def differences(folder: Path, reference: Path) -> list[str]:
    """
    Return the differences in files that both folders have: checkpoints and detections.

    Raises:
        FileNotFoundError: the run has no detections.
    """
    found = []
    for file in sorted(folder.glob("model_*.pth")):
        if (reference / file.name).exists():
            found += [f"{file.name}: {name}" for name in unequal(file, reference / file.name)]
    if (folder / DETECTIONS).read_bytes() != (reference / DETECTIONS).read_bytes():
        found.append(DETECTIONS)
    return found


def unequal(a: Path, b: Path) -> list[str]:
    """Return the entries of two checkpoints that are not equal bit for bit."""
    first, second = dict(entries(a)), dict(entries(b))
    return [
        name
        for name in sorted({*first, *second})
        if name not in first or name not in second or not same(first[name], second[name])
    ]


def entries(checkpoint: Path) -> Iterator[tuple[str, Any]]:
    """Yield full name and value of everything in a checkpoint."""
    content = torch.load(checkpoint, weights_only=True)
    yield from _flat(content, "")
    yield from _flat(dict(getattr(content["model"], "_metadata", {})), "metadata.")


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}{key}.")
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _flat(part, f"{name}{index}.")
    else:
        yield name.rstrip("."), value


def same(a: Any, b: Any) -> bool:
    """Return True if two values are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="output folder; must not exist")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--config-file", type=Path, default=LAPTOP_RECIPE)
    parser.add_argument("--num-gpus", type=int, default=1, help="processes of a run")
    parser.add_argument("--jobs", type=int, default=2, help="runs in parallel")
    parser.add_argument(
        "--within",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="a run is killed within this time after its start",
    )
    parser.add_argument("--period", type=int, default=5, help="iterations between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the kills; the runs use seed 1")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    args = parser.parse_intermixed_args()
    if args.folder.exists():
        parser.error(f"{args.folder} already exists")
    args.folder.mkdir(parents=True)
    # A shell ignores it for background jobs, and the runs would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = args.folder.absolute()
    command = [sys.executable, str(ROOT / "train_net.py"), "--resume"]
    command += ["--config-file", str(args.config_file.absolute()), "--num-gpus", str(args.num_gpus)]
    command += [*args.opts, "SOLVER.CHECKPOINT_PERIOD", str(args.period), "SEED", "1"]

    reference = folder / "reference"
    print("the reference run ...", flush=True)
    if start([*command, "OUTPUT_DIR", str(reference)], folder / "reference.log").wait() != 0:
        print(f"the reference run failed; see {folder / 'reference.log'}")
        return 1
    kills, found = kill_runs(args, folder, command, reference)
    content = [asdict(kill) for kill in kills]
    (folder / "kills.json").write_text("\n".join(map(json.dumps, content)) + "\n")
    by_signal = ", ".join(f"{n} {name}" for name, n in Counter(k.signal for k in kills).items())
    runs = len({kill.run for kill in kills})
    print(f"{len(kills)} kills ({by_signal}) of {runs} runs; {len(found)} differences")
    print("\n".join(found[:20]))
    return 1 if found else 0


def kill_runs(
    args: argparse.Namespace, folder: Path, command: Sequence[str], reference: Path
) -> tuple[list[Kill], list[str]]:
    """Run, finish and compare runs until there are enough kills."""
    kills: list[Kill] = []
    found: list[str] = []
    lock = Lock()
    progress = tqdm(total=args.kills, unit="kill")

    def work(first: int) -> None:
        for number in range(first, sys.maxsize, args.jobs):
            if len(kills) >= args.kills:
                return
            own = folder / f"run_{number}"
            trial = Trial(number, own, command, seed=args.seed, kill_within_s=args.within)
            for kill in trial.attempts(lambda: len(kills) >= args.kills):
                with lock:
                    kills.append(kill)
                    progress.update()
            different = [f"run_{number}: {x}" for x in differences(own, reference)]
            with lock:
                found.extend(different)
                progress.write(f"run_{number}: {len(trial.kills)} kills, {len(different)} differ")
            if not different:
                shutil.rmtree(own)

    with ThreadPoolExecutor(args.jobs) as executor:
        for future in [executor.submit(work, first) for first in range(args.jobs)]:
            future.result()
    progress.close()
    return kills, found


if __name__ == "__main__":
    sys.exit(main())
