"""Memory allocator of trainers on the CPU: set before they start, unless the user has chosen."""

import json
import os
import subprocess
import sys

import pytest

import focal_plugin_allocator as allocator
from focal_plugin.compare.running.engines.remote import allowed_variables
from focal_plugin_allocator import SWITCH, TUNABLES, allocator_variables

from .conftest import ROOT

has_glibc = pytest.mark.skipif(allocator._glibc() < (2, 35), reason="requires glibc 2.35")
CHOICES = {
    SWITCH: "default",
    TUNABLES: "glibc.malloc.arena_max=1",
    "LD_PRELOAD": "libjemalloc.so.2",
    "MALLOC_TRIM_THRESHOLD_": "0",
}
SCRIPT = """
import json, os, sys
from focal_plugin_allocator import is_tuned, restart_with_tuned_allocator
print(os.getpid(), flush=True)
restart_with_tuned_allocator()
print(json.dumps([is_tuned(), sys.argv[1:], dict(os.environ)]))
"""


def run_script(tmp_path, **environment):
    """Run a script that restarts itself; return its process numbers and what it has then."""
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, str(file), "--opt", "a b"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *numbers, found = run.stdout.splitlines()
    return numbers, *json.loads(found)


@has_glibc
def test_a_trainer_on_the_cpu_has_large_pages_and_keeps_some_freed_memory():
    added = allocator_variables({"PATH": "/bin"}, on_gpu=False)
    assert added[TUNABLES].split(":") == [
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_threshold=33554432",
        "glibc.malloc.trim_threshold=1073741824",
    ]
    assert allocator_variables({"PATH": "/bin"}, on_gpu=True) == {}
    assert allocator_variables(added, on_gpu=False) == {}


@pytest.mark.parametrize("name", CHOICES)
def test_the_users_allocator_stays(name):
    assert allocator_variables({name: CHOICES[name]}, on_gpu=False) == {}
    assert allowed_variables({name: CHOICES[name]}) == {name: CHOICES[name]}  # in a Slurm job


@pytest.mark.parametrize("version", ["glibc 2.34", "", None])
def test_another_system_stays_as_it_is(monkeypatch, version):
    monkeypatch.setattr(allocator.os, "confstr", lambda _: version)
    assert allocator_variables({}, on_gpu=False) == {}


def test_a_system_without_confstr_stays_as_it_is(monkeypatch):
    monkeypatch.delattr(allocator.os, "confstr")
    assert allocator_variables({}, on_gpu=False) == {}


@has_glibc
def test_a_script_restarts_itself_once(tmp_path):
    numbers, tuned, arguments, environment = run_script(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert tuned
    assert len(numbers) == 2
    assert len(set(numbers)) == 1  # the same process
    assert arguments == ["--opt", "a b"]
    assert environment[TUNABLES].startswith("glibc.malloc.hugetlb=1:")


def test_a_script_does_not_restart_if_the_user_has_chosen(tmp_path):
    numbers, tuned, *_ = run_script(tmp_path, FOCAL_PLUGIN_ALLOCATOR="default")
    assert not tuned
    assert len(numbers) == 1


@pytest.fixture
def restarts(monkeypatch):
    """Return the list of restarts, which do not happen, of a process that may restart."""
    restarts = []
    monkeypatch.setattr(allocator.os, "execve", lambda *args: restarts.append(args))
    monkeypatch.setattr(allocator, "GPU_DRIVERS", ())
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-u", *sys.argv])
    for name in [*CHOICES, "CUDA_VISIBLE_DEVICES"]:
        monkeypatch.delenv(name, raising=False)
    return restarts


@has_glibc
def test_a_script_does_not_restart_on_a_machine_with_a_gpu(monkeypatch, tmp_path, restarts):
    monkeypatch.setattr(allocator, "GPU_DRIVERS", (str(tmp_path),))
    allocator.restart_with_tuned_allocator()
    assert not restarts
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    allocator.restart_with_tuned_allocator()
    assert len(restarts) == 1


@has_glibc
def test_a_script_inside_another_process_does_not_replace_it(monkeypatch, restarts):
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", "x.yaml"])
    allocator.restart_with_tuned_allocator()
    assert not restarts
