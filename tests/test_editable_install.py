"""The editable install is found whatever the working directory holds."""

import subprocess
import sys

FIND = "import importlib.util as u; print(u.find_spec('focal_plugin').origin)"


def test_a_clone_of_the_same_name_does_not_hide_the_package(tmp_path):
    """A clone named focal_plugin holds no `__init__.py`, so Python takes it for a namespace."""
    (tmp_path / "focal_plugin" / "focal_plugin").mkdir(parents=True)
    command = [sys.executable, "-c", FIND]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith("__init__.py"), "run `make setup` again"
