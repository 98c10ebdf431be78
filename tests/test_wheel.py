"""An installed wheel is complete: it finds its configs and sweeps, far from the repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from .conftest import ROOT

SPEC = """
base: Shapes-Detection/retinanet_small_ce.yaml  # shipped with the package
arms:
  CE: []
  FL: Shapes-Detection/retinanet_small_fl.yaml
seeds: 1
budget: {{iterations: 4}}
datasets: {{tiny: "{data}/annotations.json:{data}/images"}}
opts: [DATASETS.TRAIN, "('tiny',)", DATASETS.TEST, "('tiny',)", DATALOADER.NUM_WORKERS, 0,
       SOLVER.IMS_PER_BATCH, 2, MODEL.DEVICE, cpu]
"""


def call(*command, cwd, **environment):
    """Run a command that sees nothing of the repository."""
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
    """The wheel, built without a compiler in sight, since its operators are tested elsewhere."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "focal_plugin_doctor.py"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    for name in ("focal_plugin", "configs"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True)
    for built in copy.glob("focal_plugin/ops/_C*.so"):
        built.unlink()
    pip = (sys.executable, "-m", "pip", "wheel", *options, "-w", folder)
    call(*pip, copy, cwd=folder, PATH=str(folder))
    return next(folder.glob("focal_plugin-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel; it borrows all other packages from the running one."""
    environment = tmp_path_factory.mktemp("installed") / "environment"
    call(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment.parent)
    python = environment / "bin" / "python"
    site_packages = next(environment.glob("lib/python3*/site-packages"))
    borrowed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    call(*pip, "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=environment.parent)
    return environment


def configs_in(folder):
    files = [file for kind in ("yaml", "py") for file in folder.glob(f"**/*.{kind}")]
    return {str(file.relative_to(folder)) for file in files}


def test_the_wheel_holds_every_config_and_the_mark_of_a_typed_package(installed):
    package = next(installed.glob("lib/python3*/site-packages/focal_plugin"))
    assert configs_in(package / "configs") == configs_in(ROOT / "configs")
    assert (package / "py.typed").exists()
    assert (package / "compare" / "report" / "report.html.j2").exists()
    assert not (package / "ops" / "_C.so").exists()


@pytest.mark.slow
def test_an_installed_wheel_compares_two_arms(installed, tiny_shapes, tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC.format(data=tiny_shapes))
    call(installed / "bin" / "focal-compare", "run", "spec.yaml", cwd=tmp_path)
    folder = tmp_path / "runs" / "spec"
    assert (folder / "report.html").exists()
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*/result.json"))]
    assert sorted(result["arm"] for result in results) == ["CE", "FL"]
    assert {result["iterations"] for result in results} == {4}
    runs = json.loads((folder / "comparison.json").read_text())["runs"]
    assert all(Path(run["config_file"]).is_relative_to(installed) for run in runs)


def test_this_environment_is_not_the_installed_one(installed):
    where = "import focal_plugin_doctor as doctor; print(doctor.__file__)"
    told = call(installed / "bin" / "python", "-c", where, cwd=installed).strip()
    assert Path(told).is_relative_to(installed)
    assert not told.startswith(sysconfig.get_path("purelib"))
