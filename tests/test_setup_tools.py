"""The tools that set an environment up: what they refuse, and what stands in for compiled ops."""

import importlib.util
import os
import re
import subprocess

import pytest

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


def test_a_torch_that_is_there_is_not_replaced_by_the_pinned_one():
    bootstrap = load("bootstrap")
    for constraints in bootstrap.CONSTRAINTS.values():
        kept = bootstrap.without_torch(constraints.read_text())
        assert "torch" not in kept.replace("today's torch", "")
        assert "numpy" in kept


def test_detectron2_is_pinned_by_commit_and_by_hash():
    assert re.fullmatch(r"[0-9a-f]{40}", load("bootstrap").DETECTRON2_COMMIT)
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
