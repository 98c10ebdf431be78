#!/usr/bin/env python3
r"""
Benchmark of the steps of `focal-compare report` for one run: CPU time of each.

    $ python tools/benchmarks/bm_run_steps.py

The run is drawn at random as in `bm_report.py`. `json.loads` of the same file is the yardstick for
machines and times that differ.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bm_report
import harness
import numpy as np

from focal_plugin.compare.analysis.detections.average_precision import Evaluation
from focal_plugin.compare.analysis.detections.bootstrap import resample
from focal_plugin.compare.analysis.detections.coco_json import read_detections, read_ground_truth
from focal_plugin.compare.analysis.detections.disagreement import image_scores
from focal_plugin.compare.analysis.detections.error_types import error_types
from focal_plugin.compare.analysis.detections.list_facts import list_facts
from focal_plugin.compare.analysis.detections.match_boxes import match
from focal_plugin.compare.analysis.detections.run_decisions import run_decisions
from focal_plugin.garbage_collection import garbage_collection_paused


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--replicates", type=int, default=1000)
    harness.add_arguments(parser, rounds=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, garbage_collection_paused():
        folder = Path(temporary)
        generator = np.random.default_rng(0)
        drawn, data = bm_report.write_ground_truth(folder / "data", args.images, generator)
        file = folder / "detections.json"
        entries = bm_report.draw_detections(drawn, 0.6, args.detections, generator)
        file.write_text(json.dumps(entries), encoding="utf-8")
        rounds = [measure(Path(data["json_file"]), file, args) for _ in range(args.rounds)]
    rows = [
        {"step": step, "cpu ms": 1000 * min(times[step] for times in rounds)} for step in rounds[0]
    ]
    harness.report(rows, file=args.json, images=args.images, replicates=args.replicates)


def measure(truth_file: Path, file: Path, args: argparse.Namespace) -> dict[str, float]:
    """Return step -> CPU time, seconds."""
    times: dict[str, float] = {}

    def timed(step: str, work: Callable[[], Any]) -> Any:
        before = time.process_time()
        result = work()
        times[step] = time.process_time() - before
        return result

    truth = read_ground_truth(truth_file)
    timed("json.loads", lambda: json.loads(file.read_bytes()))
    detections = timed("read", lambda: read_detections(file, truth))
    matches = timed("match", lambda: match(truth, detections))
    evaluation = Evaluation(truth, detections, matches)
    ap = timed("AP", lambda: evaluation.average_precision(metrics=("AP", "AR")))
    timed("AP of shorter lists", lambda: list_facts(evaluation, ap.averages["AP"]))
    timed("error types", lambda: error_types(evaluation))
    timed("operating points", lambda: run_decisions(evaluation))
    timed("images", lambda: image_scores(evaluation))
    timed("resamples", lambda: resample(evaluation, replicates=args.replicates))
    return times


if __name__ == "__main__":
    main()
