"""The import of torchvision does not wait for the compiler of PyTorch."""

import io
import subprocess
import sys

import pytest

from focal_plugin.compiler_import import NAME, compiler_import_deferred


@pytest.mark.slow
def test_the_package_and_torchvision_are_imported_without_the_compiler():
    code = (
        "import sys, focal_plugin, torchvision.ops; "
        "sys.exit(sorted(sys.modules.keys() & {'torch._dynamo', 'torch._dynamo.utils'}) or None)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.fixture
def not_imported(monkeypatch):
    """Make the standard library's `wave` stand for the compiler, which is no module to unload."""
    monkeypatch.setattr("focal_plugin.compiler_import.NAME", "wave")
    monkeypatch.setattr("focal_plugin.compiler_import.DEFERRED", "Wave_write")
    monkeypatch.delitem(sys.modules, "wave", raising=False)


def test_a_deferred_function_imports_the_module_only_when_it_is_called(not_imported):
    with compiler_import_deferred():
        from wave import Wave_write as deferred
    assert "wave" not in sys.modules
    assert isinstance(deferred(io.BytesIO()), sys.modules["wave"].Wave_write)


def test_any_other_name_imports_the_module_at_once(not_imported):
    with compiler_import_deferred():
        from wave import Wave_read

        assert sys.modules["wave"].Wave_read is Wave_read
    assert sys.modules["wave"].__file__


def test_a_module_that_is_already_imported_stays(monkeypatch):
    monkeypatch.setitem(sys.modules, NAME, sys)
    with compiler_import_deferred():
        assert sys.modules[NAME] is sys
    assert sys.modules[NAME] is sys
