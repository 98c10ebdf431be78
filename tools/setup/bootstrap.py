#!/usr/bin/env python3
"""
Create a Python environment for focal_plugin. It requires only Python's standard library.

The script keeps existing parts of the environment, so a second call does almost nothing:

1. The environment is --venv, created if it is missing. If the creating Python has a working torch
   and torchvision, the environment uses that Python's packages; otherwise it is isolated.
2. torch and torchvision are a pair that can be imported together.
3. Detectron2 is the importable one; otherwise its repository at a pinned commit, compiled;
   otherwise the Python code of its main branch from a wheel on the package index (see
   install_detectron2_wheel.py).
4. focal_plugin is installed in editable mode with its [dev] extra. A compiler builds its C++
   operators. OpenCV is also installed unless `cv2` can be imported.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from focal_plugin_doctor import DETECTRON2_COMMIT  # noqa: E402 - requires the path

CONSTRAINTS = HERE / "constraints.txt"
PINS = [line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
TORCH_PAIR = [pin for pin in PINS if pin.startswith("torch")]
DETECTRON2_REPOSITORY = "https://github.com/facebookresearch/detectron2"
BUILD_TOOLS = [*(pin for pin in PINS if pin.startswith("setuptools")), "wheel", "ninja"]


def say(message: str) -> None:
    print(f"[setup] {message}", flush=True)


def run(command: Sequence[str | Path], **kwargs: Any) -> None:
    subprocess.run([str(part) for part in command], check=True, **kwargs)


def succeeds(command: Sequence[str | Path], **kwargs: Any) -> bool:
    nowhere = subprocess.DEVNULL
    try:
        run(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, **kwargs)
    except (subprocess.SubprocessError, OSError):
        return False
    return True


class Environment:
    """Virtual environment at ``path``; every installation into it uses this class."""

    def __init__(self, path: Path) -> None:
        self.python = path / "bin" / "python"

    def can_import(self, *modules: str) -> bool:
        return succeeds([self.python, "-c", f"import {', '.join(modules)}"])

    def pip(self, *arguments: str | Path) -> None:
        """
        Run pip in the environment.

        Raises:
            SystemExit: pip failed; its output is above.
        """
        command = [self.python, "-m", "pip", "--disable-pip-version-check", *arguments]
        try:
            run(command)
        except subprocess.CalledProcessError:
            sys.exit(f"[setup] failed: {' '.join(map(str, command))}")

    def runtime(self) -> str:
        """Return the kind of the installed Detectron2, as the doctor names it."""
        command = [str(self.python), "-m", "focal_plugin_doctor", "--runtime"]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        return answer.stdout.strip()


def create_venv(path: Path, creator: str) -> None:
    """
    Create a virtual environment.

    Raises:
        SystemExit: the creating Python cannot create one.
    """
    python = path / "bin" / "python"
    if python.exists():
        if not succeeds([python, "-m", "pip", "--version"]):  # created without pip, or incomplete
            run([python, "-m", "ensurepip"])
        return
    command: list[str | Path] = [creator, "-m", "venv"]
    if succeeds([creator, "-c", "import torch, torchvision"]):
        if sys.prefix == sys.base_prefix:
            say(f"{creator} has torch and torchvision: using them")
            command.append("--system-site-packages")
        else:  # a virtual environment is not visible inside another one
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
    """Return True if Detectron2's repository is reachable; without a network, fail at once."""
    command = ["timeout", "20", "git", "ls-remote", "--exit-code", DETECTRON2_REPOSITORY, "HEAD"]
    return succeeds(command, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})


def install_detectron2(env: Environment, from_repository: bool) -> None:
    """Build Detectron2 from its repository; if that fails, install its Python code from a wheel."""
    env.pip("install", "--quiet", *BUILD_TOOLS)
    if from_repository:
        say("Detectron2: building it from its repository (takes minutes, requires a C++ compiler)")
        env.pip("install", "--quiet", "-c", CONSTRAINTS, "numpy")
        source = f"detectron2 @ git+{DETECTRON2_REPOSITORY}@{DETECTRON2_COMMIT}"
        build = ["-m", "pip", "install", "--no-build-isolation", "-c", str(CONSTRAINTS), source]
        try:
            run([env.python, *build])
            return
        except subprocess.CalledProcessError:
            say("Detectron2: the build failed; its output is above")
    say("Detectron2: installing the Python code of its main branch from the package index")
    run([env.python, HERE / "install_detectron2_wheel.py"])


def install_everything(env: Environment) -> None:
    """Install only missing parts; a working torch or Detectron2 is kept."""
    has_detectron2 = env.can_import("detectron2")
    from_repository = not has_detectron2 and repository_answers()
    if not env.can_import("torch", "torchvision"):
        say(f"installing {' and '.join(TORCH_PAIR)} (several GB with CUDA libraries)")
        # pip accepts an installed 2.x+cpu, whose torchvision cannot be imported, as 2.x.
        env.pip("install", "--force-reinstall", *TORCH_PAIR)
    if not has_detectron2:
        install_detectron2(env, from_repository)
    runtime = env.runtime()
    say(f"Detectron2 runtime: {runtime}; installing focal_plugin and its tools")
    extra = [] if env.can_import("cv2") else ["opencv-python-headless"]
    env.pip("install", "--quiet", *BUILD_TOOLS)
    env.pip("install", "--quiet", "--no-build-isolation", *extra, "-e", f"{ROOT}[dev]")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="default: .venv")
    args = parser.parse_args()

    if sys.version_info < (3, 10):  # noqa: UP036 - an older Python may run this script
        sys.exit("[setup] requires Python 3.10 or newer: make setup PYTHON=python3.11")
    start = time.monotonic()
    create_venv(args.venv, sys.executable)
    env = Environment(args.venv.resolve())
    install_everything(env)
    doctor = subprocess.run([env.python, "-m", "focal_plugin_doctor"], cwd=ROOT)
    if doctor.returncode != 0:
        sys.exit("[setup] not ready: the report above shows how to fix it")
    say(f"done in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
