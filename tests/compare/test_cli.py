"""focal-compare with real, tiny runs: finished, failed, interrupted, gone on with."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from focal_plugin.data.painting import CLASSES

from ..conftest import DATASET_ROOT, ROOT

CONFIGS = ROOT / "configs" / "Shapes-Detection"
# of a run that is interrupted: long enough for another command to start on a busy machine
ITERATIONS = 150
COMPARE = [sys.executable, "-m", "focal_plugin.compare.cli"]


@pytest.fixture(scope="module")
def small_root(tmp_path_factory):
    """A data set root in which the built-in data set is small: the command line draws it there."""
    root = tmp_path_factory.mktemp("datasets")
    for split, images in (("train", 8), ("val", 10)):
        folder = root / "focal_shapes_v1" / f"focal_shapes_{split}"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "focal_plugin.data.draw_shapes",
                folder,
                "--images",
                str(images),
            ],
            check=True,
            capture_output=True,
        )
    return root


def write_spec(folder, iterations, *opts, arms=("ce", "fl")):
    configs = {arm: f"{CONFIGS}/retinanet_small_{arm}.yaml" for arm in arms}
    opts = [
        *("SOLVER.MAX_ITER", iterations, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.STEPS", "()"),
        *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, *opts),
    ]
    spec = folder / "spec.yaml"
    spec.write_text(json.dumps({"arms": configs, "seeds": [1], "opts": opts}))
    return spec


def compare(root, *arguments):
    return subprocess.run(
        [*COMPARE, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "DETECTRON2_DATASETS": str(root)},
    )


@pytest.mark.slow
def test_runs_report_table_and_picture_and_a_second_call_trains_nothing(small_root, tmp_path):
    spec, output = write_spec(tmp_path, 3), tmp_path / "out"
    first = compare(small_root, "run", spec, "--output", output)
    assert first.returncode == 0, first.stderr
    assert "Highest AP" in first.stdout
    table = (output / "table.md").read_text()
    assert table.strip() in first.stdout
    runs = json.loads((output / "table.json").read_text())
    assert [run["arm"] for run in runs] == ["ce", "fl"]
    assert all(list(run["ap_per_class"]) == list(CLASSES) for run in runs)
    assert all(run["peak_memory_mib"] > 100 and run["iteration_s"] > 0 for run in runs)
    assert Image.open(output / "detections.png").size == (3 * 384 + 12, 3 * 384 + 12)

    checkpoint = output / "fl-seed1" / "model_final.pth"
    written = checkpoint.stat().st_mtime_ns
    second = compare(small_root, "run", spec, "--output", output)
    assert second.returncode == 0
    assert second.stderr.count("done already") + second.stdout.count("done already") == 2
    assert checkpoint.stat().st_mtime_ns == written

    other = compare(small_root, "run", write_spec(tmp_path, 4), "--output", output)
    assert other.returncode == 2
    assert "another config" in other.stderr


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_the_others_finish(small_root, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        f"_BASE_: {CONFIGS}/retinanet_small_fl.yaml\n"
        "MODEL: {RETINANET: {FOCAL_LOSS_GAMMA: -1.0}}\n"
    )
    spec = write_spec(tmp_path, 3, arms=("ce",))
    content = json.loads(spec.read_text())
    content["arms"] = {"broken": str(broken), **content["arms"]}
    spec.write_text(json.dumps(content))
    result = compare(small_root, "run", spec, "--output", tmp_path / "out")
    assert result.returncode == 1
    assert "failed: broken seed 1: exit code 1" in result.stderr
    assert "FOCAL_LOSS_GAMMA must be >= 0" in result.stderr + result.stdout
    runs = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [run["arm"] for run in runs] == ["ce"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGHUP], ids=["ctrl_c", "closed_terminal"]
)
def test_interrupted_it_leaves_what_is_finished_and_the_same_command_goes_on(
    small_root, tmp_path, number
):
    spec = write_spec(tmp_path, ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", 10, arms=("fl",))
    output = tmp_path / "out"
    process = subprocess.Popen(
        [*COMPARE, "run", spec, "--output", output],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "DETECTRON2_DATASETS": str(small_root)},
        # as in a terminal, also where these tests run in the background, which ignores Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    folder = output / "fl-seed1"
    deadline = time.monotonic() + 120
    while not (folder / "last_checkpoint").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    beside = compare(small_root, "run", spec, "--output", output)
    assert beside.returncode == 1
    assert "another process is training" in beside.stderr
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert not (folder / "result.json").exists()
    assert not _processes_that_mention(str(folder)), "the trainer still runs"

    other = compare(
        small_root, "run", write_spec(tmp_path, ITERATIONS + 1, arms=("fl",)), "--output", output
    )
    assert other.returncode == 2, "an unfinished run of another config is not gone on with"
    assert "another config" in other.stderr
    write_spec(tmp_path, ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", 10, arms=("fl",))

    finished = compare(small_root, "run", spec, "--output", output)
    assert finished.returncode == 0, finished.stderr
    log = (folder / "train.log").read_text()
    resumed_from = [x for x in log.splitlines() if "Starting training from iteration" in x]
    assert int(resumed_from[-1].split()[-1]) >= 10
    assert json.loads((folder / "result.json").read_text())["iterations"] == ITERATIONS


def _processes_that_mention(text):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                if text in file.read() and int(pid) != os.getpid():
                    found.append(pid)
        except OSError:
            continue
    return found


def test_report_without_a_finished_run_says_so(tmp_path):
    spec = write_spec(tmp_path, 3)
    result = compare(DATASET_ROOT, "report", spec, "--output", tmp_path / "none")
    assert result.returncode == 1
    assert "no finished run" in result.stderr


def test_a_missing_spec_is_an_error_without_a_traceback(tmp_path):
    result = compare(DATASET_ROOT, "run", tmp_path / "none.yaml")
    assert result.returncode == 2
    assert "none.yaml" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_shows_a_spec():
    result = compare(DATASET_ROOT, "--help")
    assert result.returncode == 0
    assert "seeds: [1, 2, 3]" in result.stdout
