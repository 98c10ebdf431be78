"""The doctor names each common fault, with the command that fixes it."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import focal_plugin_doctor as doctor

from .conftest import ROOT


def diagnosis(subject):
    found = [f for f in doctor.examine() if f.subject == subject]
    assert found, f"nothing about {subject}"
    return found[0]


def test_this_environment_is_ready(capsys):
    assert doctor.main([]) == 0
    report = capsys.readouterr().out
    assert "Ready to train." in report
    for subject in ("Python", "torch", "torchvision", "Detectron2", "numpy", "Pillow", "CPU"):
        assert f" {subject} " in report


def test_the_runtime_is_detected_by_features_and_printed_alone(capsys):
    from detectron2 import _C

    expected = "compiled" if _C.__file__.endswith(".so") else "Python only"
    assert doctor.main(["--runtime"]) == 0
    assert capsys.readouterr().out.strip() == doctor.detectron2_runtime() == expected


def test_a_detectron2_before_release_06_is_too_old(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_detectron2_folder", lambda: tmp_path)
    assert doctor.detectron2_runtime() == "too old"
    found = diagnosis("Detectron2")
    assert found.remedy == doctor.REBUILD_DETECTRON2
    assert "before release 0.6" in found.state
    with (
        pytest.raises(ImportError, match=r"requires Detectron2 0\.6 or newer, but an older one"),
        doctor.explain_failed_import(),
    ):
        raise AttributeError("DenseDetector")


def test_it_runs_where_nothing_is_installed():
    command = [sys.executable, "-S", "-m", "focal_plugin_doctor"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1
    assert doctor.TORCH_PAIR in result.stdout
    assert "To be fixed: torch, Detectron2, setuptools, numpy" in result.stdout


def test_importing_the_package_without_detectron2_says_how_to_get_it():
    command = [sys.executable, "-S", "-c", "import focal_plugin"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1
    assert "focal_plugin requires Detectron2, which is not installed" in result.stderr
    assert doctor.BUILD_DETECTRON2 in result.stderr
    assert "MiroPsota/torch_packages_builder" in result.stderr
    assert "focal-plugin doctor" in result.stderr


def test_a_broken_import_says_what_broke_and_names_the_doctor(tmp_path):
    (tmp_path / "numpy").mkdir()  # imported before PyTorch
    (tmp_path / "numpy" / "__init__.py").write_text("raise AttributeError('LINEAR')")
    result = subprocess.run(
        [sys.executable, "-c", "import focal_plugin"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 1
    assert "AttributeError: LINEAR" in result.stderr
    assert "focal-plugin doctor" in result.stderr


@pytest.mark.parametrize(
    ("version", "is_fine"), [("1.23.5", True), ("1.24.0", False), ("1.9", True)]
)
def test_versions_are_compared_as_numbers(version, is_fine):
    assert doctor._is_below(version, "1.24") == is_fine


def test_a_torchvision_incompatible_with_torch_is_named(monkeypatch):
    failure = "RuntimeError: operator torchvision::nms does not exist"
    monkeypatch.setattr(
        doctor, "_import_failure", lambda module: failure if module == "torchvision" else None
    )
    torchvision = diagnosis("torchvision")
    assert failure in torchvision.state
    assert torchvision.remedy == doctor.TORCH_PAIR
    assert "--force-reinstall" in doctor.TORCH_PAIR


def test_the_command_focal_plugin_runs_it_without_detectron2():
    script = Path(sys.executable).with_name("focal-plugin")
    command = [sys.executable, "-S", script, "doctor", "--runtime"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.strip() == "none"


@pytest.mark.parametrize(("torch", "torchvision"), [("2.11.0", "0.26"), ("2.4.1+cu121", "0.19")])
def test_the_remedy_for_a_missing_torchvision_matches_torch(torch, torchvision):
    assert doctor._matching_torchvision(torch) == f"pip install 'torchvision=={torchvision}.*'"


def test_setuptools_without_pkg_resources_is_named(monkeypatch):
    find_spec = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util,
        "find_spec",
        lambda name: None if name == "pkg_resources" else find_spec(name),
    )
    assert diagnosis("setuptools").remedy == "pip install 'setuptools<82'"


def test_missing_compiled_ops_are_a_remark_and_not_a_fault(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "has_compiled_ops", lambda: False)
    assert diagnosis("compiled ops").optional
    assert doctor.main([]) == 0
    report = capsys.readouterr().out
    assert "fast COCO evaluator" in report
    assert "prebuilt wheel (Linux, Windows, macOS)" in report


@pytest.mark.parametrize(
    ("version", "failure", "state"),
    [
        (None, None, "absent"),
        ("1.2.9", None, "1.2.9 is not used: it is older than the tested release"),
        ("1.3.0", "ImportError: GLIBC", "1.3.0 is not used, because it fails: ImportError: GLIBC"),
        ("1.10.0", None, "1.10.0"),
    ],
)
def test_a_faster_evaluator_is_used_or_its_fix_is_suggested(
    monkeypatch, capsys, version, failure, state
):
    installed, fails = doctor._version, doctor._import_failure
    monkeypatch.setattr(
        doctor, "_version", lambda name: version if name == "hotcoco" else installed(name)
    )
    monkeypatch.setattr(
        doctor, "_import_failure", lambda name: failure if name == "hotcoco" else fails(name)
    )
    found = diagnosis("hotcoco")
    assert found.state.startswith(state)
    is_fine = state == version
    assert doctor.has_hotcoco() == is_fine
    assert found.remedy == (None if is_fine else "pip install 'hotcoco>=1.3'")
    assert doctor.main([]) == 0
    assert "Ready to train." in capsys.readouterr().out


def test_the_package_and_the_doctor_require_the_same_releases():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'fast = ["hotcoco>={doctor.HOTCOCO}", "msgspec>={doctor.MSGSPEC}"]' in text
    assert f'"setuptools<{doctor.SETUPTOOLS_LIMIT}",' in text
    constraints = (ROOT / "tools/setup/constraints.txt").read_text().splitlines()
    assert f"setuptools<{doctor.SETUPTOOLS_LIMIT}" in constraints


def test_operators_that_are_missing_or_do_not_load_are_a_remark(monkeypatch, tmp_path, capsys):
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    find_spec = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util,
        "find_spec",
        lambda name: package if name == "focal_plugin" else find_spec(name),
    )
    assert diagnosis("C++ operators").state.startswith("not built")
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "_C.cpython.so").write_text("built for another PyTorch")
    found = diagnosis("C++ operators")
    assert found.state.startswith("_C.cpython.so does not load")
    assert "--no-build-isolation" in found.remedy
    assert doctor.main([]) == 0
    assert "Ready to train." in capsys.readouterr().out
