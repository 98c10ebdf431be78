"""tools/check_detectron2_tools.py distinguishes working tools from broken ones."""

import importlib.util

import pytest

from .conftest import ROOT

WORKS = """
import os, pathlib, sys
assert os.environ["DETECTRON2_ENV_MODULE"] == "focal_plugin.env"
assert pathlib.Path(os.environ["DETECTRON2_DATASETS"]).is_dir()
folder = sys.argv[sys.argv.index("--output-dir") + 1]
pathlib.Path(folder, "000000.png").touch()
"""
SCRIPTS = {
    "tools/train_net.py": "",
    "tools/visualize_data.py": WORKS,
    "tools/visualize_json_results.py": "",
    "tools/benchmark.py": "import a_module_that_nobody_has",
    "demo/demo.py": "raise ValueError('this tool is broken')",
}


@pytest.fixture
def checkout(tmp_path):
    for name, text in SCRIPTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def check(monkeypatch):
    """Return check(arguments), which returns the exit code."""
    file = ROOT / "tools/check_detectron2_tools.py"
    spec = importlib.util.spec_from_file_location("check_detectron2_tools", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "IMAGES", 1)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", [file.name, *map(str, arguments)])
        return module.main()

    return run


@pytest.mark.parametrize(
    ("tool", "result"),
    [
        ("visualize_data", "pass"),
        ("visualize_json_results", "FAIL: it did not create 000000.png"),
        ("benchmark", "FAIL: a_module_that_nobody_has is not installed: pip install a_module"),
        ("demo", "FAIL: exit code 1: ValueError: this tool is broken"),
        ("plain_train_net", "FAIL: the checkout has no tools/plain_train_net.py"),
    ],
)
def test_the_table_shows_the_result_of_a_tool(checkout, check, capsys, tool, result):
    code = check(checkout, "--only", tool)
    table = capsys.readouterr().out
    assert f"{tool}.py`" in table
    assert f"| {result}" in table
    assert code == (result != "pass")


def test_a_folder_other_than_a_checkout_is_refused(tmp_path, check, capsys):
    with pytest.raises(SystemExit, match="2"):
        check(tmp_path)
    assert "not a Detectron2 checkout" in capsys.readouterr().err
