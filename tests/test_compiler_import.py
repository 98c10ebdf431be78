"""The import of torchvision does not wait for the compiler of PyTorch."""

import subprocess
import sys

import pytest
from detectron2.layers import wrappers

from focal_plugin.compiler_import import NAME, compiler_import_deferred


@pytest.mark.slow
@pytest.mark.skipif(
    hasattr(wrappers, "disable_torch_compiler"), reason="this Detectron2 imports the compiler"
)
def test_the_package_and_torchvision_are_imported_without_the_compiler():
    code = (
        "import sys, focal_plugin, torchvision.ops; "
        "sys.exit(sorted(sys.modules.keys() & {'torch._dynamo', 'torch._dynamo.utils'}) or None)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.fixture
def not_imported(monkeypatch):
    """Make a small module stand for the compiler, which is no module to unload."""
    monkeypatch.setattr("focal_plugin.compiler_import.NAME", "stringprep")
    monkeypatch.setattr("focal_plugin.compiler_import.DEFERRED", "in_table_a1")
    monkeypatch.delitem(sys.modules, "stringprep", raising=False)


def test_a_deferred_function_imports_the_module_only_when_it_is_called(not_imported):
    with compiler_import_deferred():
        from stringprep import in_table_a1 as deferred
    assert "stringprep" not in sys.modules
    assert deferred("\u0221")
    assert not deferred("a")
    assert "stringprep" in sys.modules


def test_any_other_name_imports_the_module_at_once(not_imported):
    with compiler_import_deferred():
        from stringprep import in_table_b1

        assert sys.modules["stringprep"].in_table_b1 is in_table_b1
    assert sys.modules["stringprep"].__file__


def test_a_module_that_is_already_imported_stays(monkeypatch):
    monkeypatch.setitem(sys.modules, NAME, sys)
    with compiler_import_deferred():
        assert sys.modules[NAME] is sys
    assert sys.modules[NAME] is sys
