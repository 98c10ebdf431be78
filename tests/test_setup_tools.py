"""The tools that set an environment up: what they refuse, and what stands in for compiled ops."""

import importlib.util
import os
import re
import subprocess

import pytest

from focal_plugin import doctor

from .conftest import ROOT

SETUP = ROOT / "tools" / "setup"


def load(name):
    spec = importlib.util.spec_from_file_location(name, SETUP / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stand_in():
    source = load("install_detectron2_v05").STAND_IN_FOR_COMPILED_OPS
    module = type(os)("detectron2._C")
    exec(source, module.__dict__)
    return module


def test_an_archive_with_one_changed_byte_is_refused(tmp_path):
    archive = tmp_path / "detectron2.tar.gz"
    archive.write_bytes(b"not the archive")
    with pytest.raises(SystemExit, match="not installed"):
        load("install_detectron2_v05").verify(archive)


def test_a_missing_compiled_op_is_named_when_it_is_asked_for(stand_in):
    with pytest.raises(ImportError, match=r"detectron2\._C\.deform_conv_forward is a compiled op"):
        getattr(stand_in, "deform_conv_forward")  # noqa: B009
    assert not stand_in.has_cuda()
    assert "none" in stand_in.get_compiler_version()


def test_probing_for_a_dunder_is_an_ordinary_attribute_error(stand_in):
    assert not hasattr(stand_in, "__wrapped__")


def test_both_tools_and_both_constraint_files_name_the_same_torch():
    bootstrap = load("bootstrap")
    for constraints in bootstrap.CONSTRAINTS.values():
        assert set(bootstrap.TORCH_PAIR) <= set(constraints.read_text().splitlines())


def test_constraints_on_an_environment_in_place_are_upper_bounds_only():
    bootstrap = load("bootstrap")
    for runtime, constraints in bootstrap.CONSTRAINTS.items():
        kept = bootstrap.upper_bounds(constraints.read_text())
        pins = [line for line in kept.splitlines() if not line.startswith("#")]
        assert pins
        assert all("<" in pin and "=" not in pin for pin in pins)
        assert ("numpy<1.24" in pins) == (runtime == "v0.5")


class FakeEnvironment:
    """Says what it has, and records what is installed into it."""

    python = "python"

    def __init__(self, has, runtime="v0.5"):
        self.has, self.installed, self._runtime = set(has), [], runtime

    def can_import(self, *modules):
        return set(modules) <= self.has

    def pip(self, *arguments):
        self.installed.append(" ".join(map(str, arguments)))

    def runtime(self):
        return self._runtime


def install(monkeypatch, env, *, repository, python=(3, 11)):
    bootstrap = load("bootstrap")
    monkeypatch.setattr(bootstrap, "repository_answers", lambda: repository)
    monkeypatch.setattr(bootstrap, "run", lambda command: env.installed.append(str(command[1:])))
    monkeypatch.setattr(bootstrap.sys, "version_info", python)
    bootstrap.install_everything(env)
    return env.installed


def test_a_working_environment_gets_our_package_and_nothing_else(monkeypatch):
    env = FakeEnvironment({"torch", "torchvision", "detectron2", "cv2"}, runtime="main")
    installed = install(monkeypatch, env, repository=True)
    assert not any("torch" in line or "detectron2" in line for line in installed[:-1])
    assert installed[-1].endswith("[dev]")
    assert "opencv" not in installed[-1]


@pytest.mark.parametrize(("repository", "source"), [(True, "git+https"), (False, "_v05.py")])
def test_detectron2_comes_from_its_repository_or_else_from_the_archive(
    monkeypatch, repository, source
):
    env = FakeEnvironment({"torch", "torchvision"})
    installed = install(monkeypatch, env, repository=repository)
    assert sum("git+https" in line or "_v05.py" in line for line in installed) == 1
    assert any(source in line for line in installed)
    assert "opencv-python-headless" in installed[-1]


def test_a_pair_that_does_not_load_is_installed_anew(monkeypatch):
    installed = install(monkeypatch, FakeEnvironment({"torch", "detectron2"}), repository=False)
    assert any("--force-reinstall torch==" in line for line in installed)


def test_a_python_too_new_for_v05_is_refused_before_anything_is_installed(monkeypatch):
    env = FakeEnvironment(set())
    with pytest.raises(SystemExit, match=r"PYTHON=python3\.11"):
        install(monkeypatch, env, repository=False, python=(3, 13))
    assert env.installed == []


def test_detectron2_is_pinned_by_commit_and_by_hash():
    assert re.fullmatch(r"[0-9a-f]{40}", load("bootstrap").DETECTRON2_COMMIT)
    assert load("bootstrap").DETECTRON2_COMMIT in doctor.BUILD_DETECTRON2
    assert re.fullmatch(r"[0-9a-f]{64}", load("install_detectron2_v05").SHA256)


def test_make_tells_its_targets():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("setup", "demo", "test", "lint", "clean"):
        assert f"make {target}" in shown.stdout


def test_ci_calls_make_test_and_nothing_else():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [x for x in lines if x and not x.startswith(("#", "set ", "cd "))]
    assert commands == ["exec make test"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
