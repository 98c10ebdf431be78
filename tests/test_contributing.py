"""The loss that CONTRIBUTING.md adds step by step works."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from .conftest import ROOT

pytestmark = pytest.mark.slow

COPIED = (
    *("focal_plugin", "focal_plugin_commands", "focal_plugin_doctor.py"),
    *("configs", "tests", "pyproject.toml"),
)
# The last path before a block is the file that the block contains or changes.
STEP = re.compile(r"`([\w./-]+\.(?:py|yaml))`:\n\n```(python|yaml|diff)\n(.*?)```", re.DOTALL)


def steps():
    """Return (file, language, text) of each block that belongs to a file."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    return [found.groups() for found in STEP.finditer(page)]


def apply(diff, text):
    """Return the text with the added lines of a diff after its one line of context."""
    context, *added = diff.splitlines(keepends=True)
    assert context[0] == " "
    assert all(line[0] == "+" for line in added)
    before, line, after = text.partition(f"\n{context[1:]}")
    assert line, f"no line {context[1:]!r}"
    return before + line + "".join(line[1:] for line in added) + after


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Copy the repository, and apply the steps in the copy."""
    folder = tmp_path_factory.mktemp("contributing")
    for name in COPIED:
        if (ROOT / name).is_dir():
            # With byte code; Python still compiles each file that a step changes.
            shutil.copytree(ROOT / name, folder / name, symlinks=True)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    for file, language, text in steps():
        target = folder / file
        assert target.exists() == (language == "diff"), file
        target.write_text(apply(text, target.read_text()) if language == "diff" else text)
    return folder


def run(copy, *command):
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout + result.stderr


def test_every_step_has_its_file():
    files = [file for file, _, _ in steps()]
    assert len(files) == len(set(files)) == 5


def test_the_loss_passes_its_own_tests_and_those_of_every_loss(copy):
    code, output = run(
        copy,
        *("pytest", "-q", "-n", "0", "-p", "no:cacheprovider"),
        *("tests/losses", "tests/test_configs.py"),
        *("-k", "generalized or Generalized or gce or every_loss or arm"),
    )
    assert code == 0, output
    passed = int(re.search(r"(\d+) passed", output)[1])
    assert passed > 40  # the contract, not only the new file
    for name in ("failed", "error"):
        assert f" {name}" not in output.splitlines()[-1]
