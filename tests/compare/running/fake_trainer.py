"""
Stands in for train_net.py where a test is about sweeps: takes the same arguments, writes the same
files, resumes from a checkpoint of its own, and fails as it is told to. Standard library only.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CLASSES = ["disc", "plus"]


def main(arguments):
    opts = dict(zip(arguments[::2], arguments[1::2], strict=True))
    folder, behavior = Path(opts["OUTPUT_DIR"]), opts.get("BEHAVIOR", "")
    interrupted = []
    if behavior == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # handled between two iterations, so that none repeats
        signal.signal(signal.SIGTERM, lambda *_: interrupted.append(1))
    if behavior == "leaves_child":
        # sleeps longer than any test waits
        child = subprocess.Popen(["sleep", "3000"], stdin=subprocess.DEVNULL)
        note(folder / "children", child.pid)
    note(folder / "starts", f"{os.getpid()} {os.getppid()}")
    (folder / "env.json").write_text(
        json.dumps(
            {
                "versions": {"python": "3"},
                "datasets": {"test": [{"name": "fake", "classes": CLASSES}]},
                "variables": dict(os.environ),
                "arguments": sys.argv[1:],
            }
        )
    )
    checkpoint = folder / "last_checkpoint"
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    for iteration in range(first, int(opts["STEPS"])):
        print(f"iteration {iteration}", flush=True)
        if iteration == 3:
            misbehave(behavior)
        time.sleep(float(opts["STEP_S"]))
        if interrupted:
            print("stopped", flush=True)
            sys.exit(143)
        note(folder / "iterations", iteration)
        line = {"iteration": iteration, "total_loss": 1.0, "time": float(opts["STEP_S"])}
        note(folder / "metrics.json", json.dumps(line))
        unfinished = folder / "unfinished_checkpoint"
        unfinished.write_text(str(iteration + 1))
        unfinished.replace(checkpoint)
    if behavior != "no_evaluation":
        evaluated = {"bbox/AP": 20.0, "bbox/AP-disc": 30.0, "bbox/AP-plus": float("nan")}
        line = {"iteration": int(opts["STEPS"]) - 1, **evaluated}
        note(folder / "metrics.json", json.dumps(line))
    note(folder / "finishes", os.getpid())


def misbehave(behavior):
    if behavior == "nan":
        losses = {"loss_cls": float("nan")}
        raise FloatingPointError(
            f"Loss became infinite or NaN at iteration=3!\nloss_dict = {losses}"
        )
    if behavior == "disk_full":
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not write the checkpoint") from error
    if behavior == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behavior == "exit":
        sys.exit(7)
    if behavior == "preempted":
        sys.exit(143)


def note(file, text):
    with file.open("a") as stream:
        stream.write(f"{text}\n")


if __name__ == "__main__":
    # --resume --config-file FILE [--dataset D ...] [--trust-pickle] KEY VALUE ...
    rest = sys.argv[2:]
    while rest[0].startswith("--"):
        rest = rest[1 if rest[1].startswith("--") else 2 :]
    main(rest)
