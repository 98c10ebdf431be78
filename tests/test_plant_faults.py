"""The tool that plants faults: its faults match this tree, and its verdicts are right."""

import ast
import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from .conftest import ROOT

TOOL = ROOT / "tools" / "plant_faults.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("plant_faults", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def project(tmp_path):
    """Create a tree with a package of the same name, whose tests pass."""
    root = tmp_path / "project"
    files = {
        "focal_plugin/__init__.py": "",
        "focal_plugin/sums.py": "def add(a, b):\n    return a + b\n",
        "focal_plugin/more.py": "def double(a):\n    return 2 * a\n",
        "tests/sums/test_add.py": """
            from focal_plugin.sums import add

            def test_it_adds():
                assert add(2, 3) == 5
            """,
        "tests/sums/test_failing.py": "def test_it_fails():\n    assert False\n",
        "tests/slow/test_slow.py": """
            import os, subprocess, time

            def test_it_leaves_processes_and_takes_long():
                child = subprocess.Popen(["sleep", "600"], start_new_session=True).pid
                forked = os.fork()
                if not forked:
                    time.sleep(600)
                with open(os.environ["PID_FILE"], "w") as file:
                    file.write(f"{child} {forked}")
                time.sleep(600)
            """,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text))
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def start(project, tmp_path, faults, *arguments):
    """Start the tool on that project in another process, with a known temporary folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.path.insert(0, {str(TOOL.parent)!r})
from pathlib import Path
import plant_faults as tool
tool.ROOT = Path({str(project)!r})
tool.SLOW_MODULES = ("pytest",)
tool.FAULTS = tuple(tool.Fault(*fault) for fault in {faults!r})
sys.exit(tool.main(sys.argv[1:]))
"""
    environment = {**os.environ, "TMPDIR": str(temporary), "PID_FILE": str(tmp_path / "pid")}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_there_are_at_least_sixty_faults_with_unique_names(tool):
    assert len({fault.name for fault in tool.FAULTS}) == len(tool.FAULTS) >= 60


def test_the_text_of_every_fault_occurs_once_and_the_change_is_python(tool):
    for fault in tool.FAULTS:
        file, count = tool.find_text(ROOT, fault)
        assert (str(file), count) == (fault.file, 1), fault.name
        text = (ROOT / fault.file).read_text(encoding="utf-8")
        assert fault.new != fault.old
        ast.parse(text.replace(fault.old, fault.new))


def test_the_targets_of_every_fault_are_files_or_folders_of_tests(tool):
    for fault in tool.FAULTS:
        assert tool.find_targets(ROOT, fault) == fault.tests, fault.name
        assert fault.tests.startswith("tests/")


def test_real_processes_and_trainings_have_faults_of_their_own(tool):
    real = ("tests/faults/", "tests/engine/processes/test_launch.py", "tests/compare/running/")
    assert sum(fault.tests.startswith(real) for fault in tool.FAULTS) >= 8


def test_each_verdict_is_reached_in_a_copy_that_imports_its_own_package(project, tmp_path):
    add = ("focal_plugin/sums.py", "a + b")
    faults = [
        ("caught", *add, "a - b", "tests/sums/test_add.py"),
        ("missed", *add, "b + a", "tests/sums/test_add.py"),
        ("broken", "focal_plugin/sums.py", "def add", "def subtract", "tests/sums/test_add.py"),
        ("does not apply", "focal_plugin/sums.py", "a * b", "a", "tests/sums/test_add.py"),
        ("no baseline", *add, "a - b", "tests/sums/test_failing.py"),
    ]
    before = sorted(project.rglob("*"))
    process = start(project, tmp_path, faults, "--json", tmp_path / "results.json")
    text, _ = process.communicate()
    assert process.returncode == 1
    results = json.loads((tmp_path / "results.json").read_text())["faults"]
    assert {name: result["verdict"] for name, result in results.items()} == {x: x for x in results}
    assert list(results) == [name for name, *_ in faults]
    assert results["caught"]["by"] == "tests/sums/test_add.py::test_it_adds"
    assert "5 faults: 1 " in text
    assert sorted(project.rglob("*")) == before
    assert list((tmp_path / "temporary").iterdir()) == []


def test_some_faults_alone_are_planted_and_the_results_of_others_stay(project, tmp_path):
    fault = ("focal_plugin/sums.py", "a + b", "a - b", "tests/sums/test_add.py")
    file = tmp_path / "results.json"
    others = {name: {"verdict": "missed", "seconds": 1.0, "by": ""} for name in ("b", "a", "gone")}
    file.write_text(json.dumps({"faults": others}))
    faults = [(name, *fault) for name in "ab"]
    # All planted faults are caught.
    assert start(project, tmp_path, faults, "--only", "a", "--json", file).wait() == 0
    results = json.loads(file.read_text())["faults"]
    assert [(name, result["verdict"]) for name, result in results.items()] == [
        ("a", "caught"),
        ("b", "missed"),
    ]


@pytest.mark.parametrize("how", ["time limit", signal.SIGINT, signal.SIGTERM])
def test_no_process_and_no_folder_is_left_after_any_end(project, tmp_path, how):
    fault = ("slow", "focal_plugin/sums.py", "a + b", "a - b", "tests/slow/test_slow.py")
    limit = 8 if how == "time limit" else 600
    process = start(project, tmp_path, [fault], "--timeout", limit)
    pid_file = tmp_path / "pid"
    while not (pid_file.exists() and pid_file.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    if how != "time limit":
        process.send_signal(how)
    text, _ = process.communicate()
    assert process.returncode == (1 if how == "time limit" else 130)
    assert ("timed out" in text) == (how == "time limit")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not any(map(is_running, pid_file.read_text().split()))


def is_running(pid):
    """Return True if the process lives; a killed one may still wait to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("exit_code", "unfaulted_s", "verdict"),
    [
        (0, 1, "missed"),
        (1, 1, "caught"),
        (2, 1, "broken"),
        (5, 1, "broken"),
        (-11, 1, "broken"),
        (None, 25, "hung"),
        (None, 26, "timed out"),
    ],
)
def test_a_verdict_is_the_exit_code_of_the_faulted_run(tool, exit_code, unfaulted_s, verdict):
    run = tool.TestRun(exit_code, 3.0, "FAILED tests/test_a.py::test_b - assert False\n1 failed")
    unfaulted = tool.TestRun(0, unfaulted_s, "")
    assert tool.judge(run, unfaulted, timeout_s=100).verdict == verdict


def test_a_fault_follows_code_and_tests_that_have_moved(tool, project):
    fault = tool.Fault("a", "focal_plugin/old.py", "a + b", "a - b", "tests/sums/test_old.py")
    file, count = tool.find_text(project, fault)
    assert (file.as_posix(), count) == ("focal_plugin/sums.py", 1)
    assert tool.find_targets(project, fault) == "tests/sums"
    (project / "focal_plugin/again.py").write_text("a + b")
    assert tool.find_text(project, fault) == (None, 2)
    gone = tool.Fault("a", "focal_plugin/sums.py", "a + b", "a - b", "tests/test_old.py")
    assert tool.find_targets(project, gone) is None


def test_a_comparison_names_each_catch_that_is_lost_or_gained(tool, tmp_path, capsys):
    def write(name, **verdicts):
        faults = {x: {"verdict": verdict, "by": ""} for x, verdict in verdicts.items()}
        (tmp_path / name).write_text(json.dumps({"faults": faults}))
        return str(tmp_path / name)

    before = write("before.json", kept="caught", lost="caught", gone="hung", gained="missed")
    after = write("after.json", kept="hung", lost="missed", gained="caught")
    assert tool.main(["--compare", before, after]) == 1
    text = capsys.readouterr().out
    assert "lost    lost: caught before, missed now" in text
    assert "lost    gone: hung before, not measured now" in text
    assert "gained  gained: missed before, caught now" in text
    assert "1 catches kept, 2 lost, 1 gained" in text
    assert tool.main(["--compare", before, before]) == 0


def test_an_unknown_fault_is_exit_code_2(tool, capsys):
    with pytest.raises(SystemExit, match="2"):
        tool.main(["--only", "mining-ties", "typo"])
    assert "no fault is named typo" in capsys.readouterr().err


def test_the_list_names_every_fault_with_its_change(tool, capsys):
    assert tool.main(["--list"]) == 0
    text = capsys.readouterr().out
    for fault in tool.FAULTS:
        assert f"{fault.name}\n" in text
        assert fault.new.partition("\n")[0].strip() in text


def test_a_copy_of_the_tree_has_its_links(tool, tmp_path):
    """Package data such as configs/ is a link in the repository."""
    root = tmp_path / "root"
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "a.yaml").write_text("A: 1\n")
    (root / "focal_plugin").mkdir()
    (root / "focal_plugin" / "configs").symlink_to("../configs")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    tool.copy_tree(root, tmp_path / "copy")
    assert (tmp_path / "copy" / "focal_plugin" / "configs" / "a.yaml").read_text() == "A: 1\n"
