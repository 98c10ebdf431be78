#!/usr/bin/env python3
"""
Run the unmodified tools of a Detectron2 checkout on configs of this package, on the CPU.

    python tools/check_detectron2_tools.py CHECKOUT
    python tools/check_detectron2_tools.py CHECKOUT --only train_net --only demo

CHECKOUT is a folder with Detectron2's `tools/` and `demo/`; nothing is downloaded. The tools use
the installed Detectron2 and `DETECTRON2_ENV_MODULE=focal_plugin.env`, on a small version of the
built-in dataset. The script prints a table. Its exit code is 1 unless every tool passes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from focal_plugin.data.shapes.builtin import SPLITS
from focal_plugin.data.shapes.dataset import draw_dataset
from focal_plugin.data.shapes.painting import VERSION

ROOT = Path(__file__).resolve().parents[1]
RETINANET = ROOT / "configs/Shapes-Detection/retinanet_small.yaml"
FASTER_RCNN = ROOT / "configs/Shapes-Detection/faster_rcnn_small_roi_fl_sigmoid.yaml"
LAZY = ROOT / "configs/lazy/retinanet_R_50_FPN_shapes.py"

IMAGES = 8
"""Number of images in each split of the dataset."""

TIMEOUT_S = 900

TINY = (
    *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2"),
    *("SOLVER.MAX_ITER", "2", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
)
TINY_LAZY = (
    *("train.device=cpu", "train.max_iter=2", "dataloader.train.total_batch_size=2"),
    *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
    "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
)


@dataclass(frozen=True)
class Check:
    """
    One run of a tool.

    Attributes:
        name: name of the tool, for `--only`.
        what: the tested part of the tool.
        script: path in the checkout.
        arguments: command line; `{folder}` is the folder of this run, `{data}` that of the
            dataset, `{detections}` a file of detections.
        says: regular expression that its output must match.
        makes: file that it must create in its folder.
    """

    name: str
    what: str
    script: str
    arguments: tuple[str, ...]
    says: str = ""
    makes: str = ""


@dataclass(frozen=True)
class Outcome:
    """Result of a check."""

    check: Check
    reason: str  # "" if it passed
    seconds: float


def train(script: str, config: Path, *more: str, what: str) -> Check:
    arguments = ("--config-file", str(config), *more, *TINY, "OUTPUT_DIR", "{folder}")
    return Check(
        script, what, f"tools/{script}.py", arguments, r"copypaste: AP,AP50", "model_final.pth"
    )


def with_config(name: str, what: str, config: Path, *arguments: str, says: str) -> Check:
    """Return a check of a tool that accepts both kinds of config and prints to the terminal."""
    opts = TINY_LAZY if config.suffix == ".py" else TINY
    given = (*arguments, "--config-file", str(config), *opts)
    return Check(name, what, f"tools/{name}.py", given, says)


ANALYSES = ("flop", "activation", "parameter", "structure")
ANALYZED = (
    r"(?s)GFlops for each type of operators:.*\('conv', [\d.]*[1-9].*"
    r"Activations for Each Type of Operators:.*\('conv', [\d.]*[1-9].*"
    r"Parameter Count.*cls_score.*Model Structure.*cls_score"
)
"""Pattern for the output of analyze_model after it has counted convolutions."""

CHECKS = [
    train("train_net", RETINANET, what="RetinaNet"),
    train("train_net", FASTER_RCNN, what="Faster R-CNN"),
    replace(
        train("train_net", RETINANET, "--eval-only", what="--eval-only"),
        makes="inference/coco_instances_results.json",
    ),
    train("plain_train_net", RETINANET, what="RetinaNet"),
    train("plain_train_net", FASTER_RCNN, what="Faster R-CNN"),
    Check(
        "lazyconfig_train_net",
        LAZY.name,
        "tools/lazyconfig_train_net.py",
        ("--config-file", str(LAZY), *TINY_LAZY, "train.output_dir={folder}"),
        makes="metrics.json",
    ),
    *(
        with_config("analyze_model", config.name, config, "--tasks", *ANALYSES, says=ANALYZED)
        for config in (RETINANET, FASTER_RCNN, LAZY)
    ),
    Check(
        "visualize_data",
        "annotation",
        "tools/visualize_data.py",
        (
            *("--source", "annotation", "--config-file", str(RETINANET)),
            *("--output-dir", "{folder}", *TINY),
        ),
        makes="000000.png",
    ),
    Check(
        "visualize_json_results",
        "focal_shapes_val",
        "tools/visualize_json_results.py",
        ("--input", "{detections}", "--output", "{folder}", "--dataset", "focal_shapes_val"),
        makes="000000.png",
    ),
    with_config("benchmark", "eval", RETINANET, "--task", "eval", says=r"300 iters in [\d.]+ sec"),
    Check(
        "demo",
        "one image",
        "demo/demo.py",
        (
            *("--config-file", str(RETINANET), "--input", "{data}/images/000000.png"),
            *("--output", "{folder}/found.png", "--confidence-threshold", "0.0"),
            *("--opts", *TINY),
        ),
        r"detected \d+ instances",
        "found.png",
    ),
]


def main() -> int:
    args = parse_args()
    checks = [check for check in CHECKS if not args.only or check.name in args.only]
    with tempfile.TemporaryDirectory(prefix="detectron2_tools_") as name:
        folder = Path(name)
        prepare(folder, args.checkout)
        outcomes = []
        for number, check in enumerate(checks):
            outcomes.append(run(check, args.checkout, folder, number))
            print(row(outcomes[-1]), file=sys.stderr, flush=True)
    print("\n".join(table(outcomes)))
    return any(outcome.reason for outcome in outcomes)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="folder of Detectron2's repository")
    names = list(dict.fromkeys(check.name for check in CHECKS))
    parser.add_argument("--only", action="append", choices=names, help="can be repeated")
    args = parser.parse_args()
    args.checkout = args.checkout.resolve()
    if not (args.checkout / "tools/train_net.py").is_file():
        parser.error(f"{args.checkout} has no tools/train_net.py: not a Detectron2 checkout")
    return args


def prepare(folder: Path, checkout: Path) -> None:
    """Draw the small dataset, write detections of it, and link the modules of `demo.py`."""
    for name, spec in SPLITS.items():
        draw_dataset(replace(spec, images=IMAGES), data_folder(folder, name))
    annotations = data_folder(folder, "focal_shapes_val") / "annotations.json"
    objects = json.loads(annotations.read_text())["annotations"]
    keys = ("image_id", "category_id", "bbox")
    detections = [{**{key: x[key] for key in keys}, "score": 0.9} for x in objects]
    (folder / "detections.json").write_text(json.dumps(detections))
    # demo.py of main imports its neighbor by this name, from Meta's internal repository.
    package = folder / "python/vision/fair"
    package.mkdir(parents=True)
    (package / "detectron2").symlink_to(checkout)


def data_folder(folder: Path, name: str) -> Path:
    return folder / "datasets" / f"focal_shapes_v{VERSION}" / name


def run(check: Check, checkout: Path, folder: Path, number: int) -> Outcome:
    output = folder / f"{number:02d}_{check.name}"
    output.mkdir()
    places = {
        "folder": output,
        "data": data_folder(folder, "focal_shapes_val"),
        "detections": folder / "detections.json",
    }
    arguments = [
        argument.format(**places) if "{" in argument else argument for argument in check.arguments
    ]
    paths = [str(folder / "python"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(folder / "datasets"),
        "DETECTRON2_ENV_MODULE": "focal_plugin.env",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    start = time.monotonic()
    script = checkout / check.script
    if not script.is_file():
        return Outcome(check, f"the checkout has no {check.script}", 0.0)
    try:
        result = subprocess.run(
            [sys.executable, script, *arguments],
            capture_output=True,
            text=True,
            cwd=output,
            env=environment,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return Outcome(check, f"not finished after {TIMEOUT_S} s", TIMEOUT_S)
    reason = reason_of_failure(check, output, result)
    return Outcome(check, reason, time.monotonic() - start)


def reason_of_failure(check: Check, output: Path, result: subprocess.CompletedProcess[str]) -> str:
    """Return the reason for a failure, or "" if the tool succeeded."""
    if result.returncode:
        last = result.stderr.strip().splitlines()[-1:] or ["no message"]
        missing = re.match(r"ModuleNotFoundError: No module named '(\w+)'", last[0])
        if missing:
            return f"{missing[1]} is not installed: pip install {missing[1]}"
        return f"exit code {result.returncode}: {last[0]}"
    if not re.search(check.says, result.stdout + result.stderr):
        return f"its output does not match {check.says!r}"
    if check.makes and not (output / check.makes).is_file():
        return f"it did not create {check.makes}"
    return ""


def row(outcome: Outcome) -> str:
    check = outcome.check
    result = f"FAIL: {outcome.reason}" if outcome.reason else "pass"
    return f"| `{check.script}` | {check.what} | {outcome.seconds:.0f} | {result} |"


def table(outcomes: Sequence[Outcome]) -> list[str]:
    return ["| tool | run | s | result |", "|---|---|---|---|", *map(row, outcomes)]


if __name__ == "__main__":
    sys.exit(main())
