"""
Shared fixtures and setup of a test session: single-threaded processes, a folder, a fork server.

Importing this file changes the environment before anything imports PyTorch or Detectron2. Tests
therefore neither find a user's data nor leave any behind.
"""

import atexit
import gc
import multiprocessing
import os
import shutil
import signal
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

os.environ["OMP_NUM_THREADS"] = "1"

gc.disable()  # until all tests are imported

# A shell's background job ignores Ctrl-C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_FOLDER = "FOCAL_PLUGIN_TESTS_FOLDER"
"""Environment variable with the folder of the session, which its other processes inherit."""


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a fork has inherited this handler
        shutil.rmtree(folder, ignore_errors=True)


if _FOLDER not in os.environ:
    os.environ[_FOLDER] = tempfile.mkdtemp(prefix="focal_plugin_tests_")
    atexit.register(_remove, os.environ[_FOLDER], os.getpid())

DATASET_ROOT = os.environ["DETECTRON2_DATASETS"] = os.environ[_FOLDER]

FORK_SERVER_FILES = (
    "tests/engine/checkpoints/test_checkpointer.py",
    "tests/engine/hooks/test_diagnostics.py",
    "tests/engine/processes/test_launch.py",
    "tests/engine/test_train_net.py",
    "tests/faults/",
    "tests/modeling/test_processes.py",
    "tests/test_benchmarks.py",
)
"""Files that one worker runs: a second worker would require its own server and references."""
PRELOADED = (
    "focal_plugin.engine",
    "pytest",
    "tests.forked",
    "tests.benchmark_process",
    "tests.faults.child",
    "tests.engine.checkpoints.checkpoint_process",
    "tests.engine.processes.launched",
    "tests.engine.hooks.snapshot_process",
    "tests.modeling.two_processes",
    "tests.preloaded",
)
"""Modules that the fork server imports once for all of its processes."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Start with the slowest tests: the files that share the fork server, then the slow ones."""
    for item in items:
        if "fork_server" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
            if not item.nodeid.startswith(FORK_SERVER_FILES):
                raise pytest.UsageError(f"{item.nodeid}: its file is not in FORK_SERVER_FILES")
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(
        key=lambda item: (not item.nodeid.startswith(FORK_SERVER_FILES), item.path not in slow)
    )


def pytest_collection_finish():
    """Exclude imported objects from garbage collection, which is slow with so many."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """
    Keep tests of a file on one worker, in the order of collection.

    The same holds for tests that share the fork server or the processes of tests/ops. (The mark
    `xdist_group` of pytest-xdist 3.8 has no effect with pytest 9.2.)
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            if nodeid.startswith(FORK_SERVER_FILES):
                return "fork server"
            return "tests/ops" if nodeid.startswith("tests/ops/") else nodeid.split("::")[0]

    if config.option.dist not in {"loadfile", "loadgroup"}:
        return None
    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session")
def fork_server():
    """
    Start a process that has imported everything, from which others fork without delay.

    It is the context "forkserver" of `multiprocessing`.
    """
    environment = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    before = {name: os.environ.get(name) for name in environment}
    # A shell's background job ignores Ctrl-C, and the server would inherit that.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, handler)
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    yield
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # a regular stop takes seconds
    forkserver._forkserver._stop()


@pytest.fixture(scope="session")
def tiny_shapes() -> Path:
    """Draw twelve images of shapes, register them as "tiny_shapes", and return their folder."""
    from focal_plugin.data import ShapesSpec, draw_dataset, register_shapes

    folder = Path(DATASET_ROOT) / "tiny_shapes"
    spec = ShapesSpec(images=12, image_size=64, distractors=(2, 4), radius=(6, 12), seed=7)
    draw_dataset(spec, folder)
    register_shapes("tiny_shapes", spec, folder)
    return folder
