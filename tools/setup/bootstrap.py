#!/usr/bin/env python3
"""
Make a Python environment in which focal_plugin runs; needs nothing but Python's standard library.

What the environment has already is used as it is, so that a second call does next to nothing:

1. the environment itself: --venv, created if it is missing. It sees the packages of the Python that
   creates it where that one has a working torch and torchvision, and is isolated otherwise;
2. torch and torchvision, a pair that imports together;
3. Detectron2: an importable one, else its repository at a pinned commit (compiled), else the v0.5
   source archive from the package index (see install_detectron2_v05.py);
4. focal_plugin in editable mode with its [dev] extra, its C++ operators where there is a compiler,
   and OpenCV unless `cv2` can be imported.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONSTRAINTS = {
    "main": HERE / "constraints-detectron2-main.txt",
    "v0.5": HERE / "constraints-detectron2-v0.5.txt",
}
TORCH_PAIR = ["torch==2.11.0", "torchvision==0.26.0"]
DETECTRON2_REPOSITORY = "https://github.com/facebookresearch/detectron2"
DETECTRON2_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
BUILD_TOOLS = ["setuptools<81", "wheel", "ninja"]


def say(message: str) -> None:
    print(f"[setup] {message}", flush=True)


def run(command: list[str | Path], **kwargs: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **kwargs)


def succeeds(command: list[str | Path], **kwargs: object) -> bool:
    nowhere = subprocess.DEVNULL
    try:
        run(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, **kwargs)
    except (subprocess.SubprocessError, OSError):
        return False
    return True


class Environment:
    """The virtual environment at ``path``; every installation into it goes through here."""

    def __init__(self, path: Path) -> None:
        self.python = path / "bin" / "python"

    def can_import(self, *modules: str) -> bool:
        return succeeds([self.python, "-c", f"import {', '.join(modules)}"])

    def pip(self, *arguments: str | Path) -> None:
        """
        Raises:
            SystemExit: pip failed; what it said stands above.
        """
        command = [self.python, "-m", "pip", "--disable-pip-version-check", *arguments]
        try:
            run(command)
        except subprocess.CalledProcessError:
            sys.exit(f"[setup] failed: {' '.join(map(str, command))}")

    def runtime(self) -> str:
        """Which Detectron2 is installed: "main" (a compiled build of today's) or "v0.5"."""
        command = [str(self.python), "-m", "focal_plugin.doctor", "--runtime"]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        return answer.stdout.strip()


def create_venv(path: Path, creator: str) -> None:
    """
    Raises:
        SystemExit: the Python that is to create it cannot.
    """
    python = path / "bin" / "python"
    if python.exists():
        if not succeeds([python, "-m", "pip", "--version"]):  # made without pip, or cut off
            run([python, "-m", "ensurepip"])
        return
    command: list[str | Path] = [creator, "-m", "venv"]
    if succeeds([creator, "-c", "import torch, torchvision"]):
        if sys.prefix == sys.base_prefix:
            say(f"{creator} has torch and torchvision: they are used as they are")
            command.append("--system-site-packages")
        else:  # a virtual environment cannot be seen from inside another one
            say(f"{creator} has torch and torchvision: to use them, make setup VENV={sys.prefix}")
    say(f"creating {path}")
    try:
        run([*command, path])
    except subprocess.CalledProcessError:
        shutil.rmtree(path, ignore_errors=True)
        sys.exit(
            f"[setup] {creator} cannot create a virtual environment. On Debian and Ubuntu:\n"
            "            apt-get install python3-venv"
        )


def repository_answers() -> bool:
    """Whether Detectron2's repository can be reached; a machine without network says no at once."""
    command = ["timeout", "20", "git", "ls-remote", "--exit-code", DETECTRON2_REPOSITORY, "HEAD"]
    return succeeds(command, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})


def install_detectron2(env: Environment, from_repository: bool) -> None:
    """From its repository at the pinned commit, or, where that fails, v0.5 from its archive."""
    env.pip("install", "--quiet", *BUILD_TOOLS)
    if from_repository:
        say("Detectron2: building it from its repository (takes minutes, needs a C++ compiler)")
        constraints = CONSTRAINTS["main"]
        env.pip("install", "--quiet", "-c", constraints, "numpy")
        source = f"detectron2 @ git+{DETECTRON2_REPOSITORY}@{DETECTRON2_COMMIT}"
        build = ["-m", "pip", "install", "--no-build-isolation", "-c", constraints, source]
        try:
            run([env.python, *build])
            return
        except subprocess.CalledProcessError:
            say("Detectron2: the build failed; what it said stands above")
    say("Detectron2: taking v0.5 from the package index")
    run([env.python, HERE / "install_detectron2_v05.py"])


def install_everything(env: Environment) -> None:
    """Only what is missing: neither a torch nor a Detectron2 that works is touched."""
    has_detectron2 = env.can_import("detectron2")
    from_repository = not has_detectron2 and repository_answers()
    if not has_detectron2 and not from_repository and sys.version_info >= (3, 12):
        sys.exit(
            "[setup] Detectron2's repository cannot be reached, and v0.5, which the package index "
            "has, needs Python 3.11 or older: make setup PYTHON=python3.11"
        )
    if not env.can_import("torch", "torchvision"):
        say(f"installing {' and '.join(TORCH_PAIR)} (several GB where CUDA libraries come along)")
        # pip takes an installed 2.11.0+cpu, whose torchvision does not load, for 2.11.0
        env.pip("install", "--force-reinstall", *TORCH_PAIR)
    if not has_detectron2:
        install_detectron2(env, from_repository)
    runtime = env.runtime()
    say(f"Detectron2 runtime: {runtime}; installing focal_plugin and its tools")
    extra = [] if env.can_import("cv2") else ["opencv-python-headless"]
    env.pip("install", "--quiet", *BUILD_TOOLS)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(upper_bounds(CONSTRAINTS[runtime].read_text(encoding="utf-8")))
        constraints.flush()
        env.pip(
            # without the last one setuptools isolates the build all the same
            *("install", "--quiet", "--no-build-isolation", "--use-pep517"),
            *("-c", constraints.name, *extra, "-e", f"{ROOT}[dev]"),
        )


def upper_bounds(constraints: str) -> str:
    """What keeps pip from fetching too new a package, without what would replace one in place."""
    lines = constraints.splitlines(keepends=True)
    return "".join(line for line in lines if "==" not in line and ">=" not in line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="default: .venv")
    args = parser.parse_args()

    if sys.version_info < (3, 10):  # noqa: UP036 - any Python may be asked to run this
        sys.exit("[setup] needs Python 3.10 or newer: make setup PYTHON=python3.11")
    start = time.monotonic()
    create_venv(args.venv, sys.executable)
    env = Environment(args.venv.resolve())
    install_everything(env)
    doctor = subprocess.run([env.python, "-m", "focal_plugin.doctor"], cwd=ROOT)
    if doctor.returncode != 0:
        sys.exit("[setup] not ready: the report above says what mends it")
    say(f"done in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
