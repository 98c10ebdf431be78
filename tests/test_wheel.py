"""An installed wheel is complete: it finds its configs and sweeps outside the repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from focal_plugin.compare.runs.result import Result
from focal_plugin.compare.runs.status import Status

from .conftest import ROOT
from .forked import NARROW

pytestmark = pytest.mark.slow

SPEC = """
base: Shapes-Detection/retinanet_small.yaml  # shipped with the package, as the arms are
arms: {{CE: ce, FL: fl}}
seeds: 1
budget: {{iterations: 4}}
datasets: {{tiny: "{data}/annotations.json:{data}/images"}}
opts: [DATASETS.TRAIN, "('tiny',)", DATASETS.TEST, "('tiny',)", DATALOADER.NUM_WORKERS, 0,
       SOLVER.IMS_PER_BATCH, 2, INPUT.MIN_SIZE_TRAIN, "(64,)", INPUT.MIN_SIZE_TEST, 64,
       MODEL.DEVICE, cpu, {narrow}]
"""


def call(*command, cwd, **environment):
    """Run a command that does not see the repository."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel with pip but without a compiler: other tests cover the operators."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    modules = ("focal_plugin_allocator.py", "focal_plugin_doctor.py")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", *modules):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    for name in ("focal_plugin", "focal_plugin_commands", "configs"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True)
    for built in copy.glob("focal_plugin/ops/_C*.so"):
        built.unlink()
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    call(sys.executable, "-c", build, folder, cwd=copy, PATH=str(folder))
    return next(folder.glob("focal_plugin-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Create an environment with the wheel; other packages come from the running environment."""
    environment = tmp_path_factory.mktemp("installed") / "environment"
    call(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment.parent)
    python = environment / "bin" / "python"
    site_packages = next(environment.glob("lib/python3*/site-packages"))
    borrowed = [path for path in sys.path if Path(path).is_dir() and not ROOT.samefile(path)]
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    call(*pip, "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=environment.parent)
    return environment


def configs_in(folder):
    files = [file for kind in ("yaml", "py") for file in folder.glob(f"**/*.{kind}")]
    return {str(file.relative_to(folder)) for file in files}


def test_the_wheel_contains_every_config_and_the_typed_marker(installed):
    package = next(installed.glob("lib/python3*/site-packages/focal_plugin"))
    assert configs_in(package / "configs") == configs_in(ROOT / "configs")
    assert (package / "py.typed").exists()
    for folder in ("audit", "compare/report", "pages"):
        assert list((package / folder).glob("*.j2")), folder
    assert not (package / "ops" / "_C.so").exists()


TWICE = """
import runpy, shutil, sys

script, *arguments = sys.argv[1:]
for copy in ("first", "second"):
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    shutil.copytree("runs", copy)
"""
"""Script that runs another script twice with one import, and keeps the output of both runs."""


@pytest.fixture(scope="module")
def compared(installed, tiny_shapes, tmp_path_factory):
    """Return the folders of a comparison after the first and the second run of the command."""
    folder = tmp_path_factory.mktemp("compared")
    narrow = ", ".join(f"{key}, {value!r}" for key, value in NARROW.items())
    (folder / "spec.yaml").write_text(SPEC.format(data=tiny_shapes, narrow=narrow))
    command = (installed / "bin" / "focal-compare", "run", "spec.yaml", "--jobs", "2")
    text = call(installed / "bin" / "python", "-c", TWICE, *command, cwd=folder)
    assert text.count("1 seed cannot decide") == 2
    return folder / "first" / "spec", folder / "second" / "spec"


def test_an_installed_wheel_compares_two_arms(compared, installed):
    folder, _ = compared
    assert sum(file.suffix == ".html" for file in folder.iterdir()) == 1
    results = [Result.read(file.parent) for file in sorted(folder.glob("*/result.json"))]
    assert sorted(result.arm for result in results) == ["CE", "FL"]
    assert {result.iterations for result in results} == {4}
    runs = json.loads((folder / "comparison.json").read_text())["runs"]
    assert all(Path(run["config_file"]).is_relative_to(installed) for run in runs)


def test_a_finished_run_leaves_its_result_its_status_and_its_diagnostics(compared):
    (run,) = compared[0].glob("FL-seed1-*")
    result = Result.read(run)
    assert list(result.ap_per_class) == ["disc", "square", "triangle", "plus", "crescent"]
    assert result.iteration_s > 0
    assert result.peak_memory_mib > 100
    assert {"torch", "detectron2", "focal_plugin"} <= set(result.versions)
    assert Status.read(run) == Status("done", attempts=1)
    assert (run / "diagnostics" / "final_retinanet.npz").exists()


def test_a_second_command_trains_nothing_and_writes_the_same_report(compared):
    first, second = compared
    logs = [sorted(folder.glob("*/train.log")) for folder in compared]
    assert len(logs[0]) == 2
    assert [file.read_bytes() for file in logs[0]] == [file.read_bytes() for file in logs[1]]
    assert (first / "report.html").read_bytes() == (second / "report.html").read_bytes()


def test_this_environment_is_not_the_installed_one(installed):
    where = "import focal_plugin_doctor as doctor; print(doctor.__file__)"
    told = call(installed / "bin" / "python", "-c", where, cwd=installed).strip()
    assert Path(told).is_relative_to(installed)
    assert not told.startswith(sysconfig.get_path("purelib"))
