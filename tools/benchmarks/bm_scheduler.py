#!/usr/bin/env python3
r"""
Benchmark of a sweep itself: many runs of a trainer that does nothing.

    $ python tools/benchmarks/bm_scheduler.py --runs 125 250 500

Each run is a real process, which writes the files of a finished run. The column "own cpu ms" is the
CPU time of the command without its trainers, per run. It must not grow with the number of runs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import torch

from focal_plugin.compare.plan.comparison import Run
from focal_plugin.compare.running.engines import Options
from focal_plugin.compare.running.runner import run_all

TRAINER = """
import json, sys
folder = sys.argv[-1]
line = {"iteration": 0, "time": 0.1, "total_loss": 1.0, "bbox/AP": 20.0}
facts = {"datasets": {"test": [{"name": "drawn", "classes": ["disc"]}]}}
for name, content in (("metrics.json", line), ("env.json", facts)):
    with open(f"{folder}/{name}", "w") as file:
        file.write(json.dumps(content) + "\\n")
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, nargs="+", default=[125, 250, 500])
    parser.add_argument("--jobs", type=int, default=4, help="runs at a time (default: %(default)s)")
    harness.add_arguments(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [measure(number, args.jobs) for number in args.runs]
    harness.report(rows, file=args.json, jobs=args.jobs)


def measure(number: int, jobs: int) -> dict[str, Any]:
    """Return the row of a sweep over ``number`` runs."""
    with tempfile.TemporaryDirectory() as temporary, open(os.devnull, "w") as stream:
        trainer = Path(temporary) / "trainer.py"
        trainer.write_text(TRAINER, encoding="utf-8")
        options = Options(jobs=jobs, gpus_per_run=0, trainer=("-I", "-S", str(trainer)))
        runs = [make_run(seed) for seed in range(number)]
        before, started = os.times(), time.monotonic()
        statuses = run_all(runs, Path(temporary) / "runs", options, stream=stream)
        after, ended = os.times(), time.monotonic()
    failed = [status for status in statuses if status.state != "done"]
    if failed:
        raise RuntimeError(f"{len(failed)} runs are not done: {failed[0]}")
    own = after.user + after.system - before.user - before.system
    trainers = after.children_user + after.children_system
    trainers -= before.children_user + before.children_system
    return {
        "runs": number,
        "wall s": ended - started,
        "wall ms a run": 1e3 * (ended - started) / number,
        "own cpu ms a run": 1e3 * own / number,
        "trainers' cpu ms a run": 1e3 * trainers / number,
    }


def make_run(seed: int) -> Run:
    content = hashlib.sha256(str(seed).encode()).hexdigest()
    return Run("drawn", seed, "/config.yaml", ("SEED", str(seed)), (), content, 1)


if __name__ == "__main__":
    main()
