"""
Separate processes for state that PyTorch and Triton read once: environment variables and imports.

Each costs seconds to start, so all tests of a session share two of them, on one worker.
"""

import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor

import pytest

TIMEOUT_S = 300


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests that require a process as slow."""
    for item in items:
        uses = {*getattr(item, "fixturenames", ()), *_parameters(item)}
        if uses & {"interpreter", "without_triton"}:
            item.add_marker(pytest.mark.slow)


def _parameters(item):
    callspec = getattr(item, "callspec", None)
    return [x for x in callspec.params.values() if isinstance(x, str)] if callspec else []


@pytest.fixture(scope="session")
def interpreter():
    """Return a caller of functions in a process with Triton's interpreter and AVX2 in PyTorch."""
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {"TRITON_INTERPRET": "1", "ATEN_CPU_CAPABILITY": "avx2"}
    yield from _calls_elsewhere(environment, hidden=[])


@pytest.fixture(scope="session")
def without_triton():
    """Return a caller of functions in a process without Triton and without AVX in PyTorch."""
    yield from _calls_elsewhere({"ATEN_CPU_CAPABILITY": "default"}, hidden=["triton"])


def _calls_elsewhere(environment, hidden):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _prepare, (hidden,)) as pool:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**environment, "OMP_NUM_THREADS": "1"}.items():
                patch.setenv(name, value)
            pool.submit(os.getpid).result(TIMEOUT_S)  # it starts here, with these variables

        def call(function, *args, **options):
            return pool.submit(function, *args, **options).result(TIMEOUT_S)

        yield call


def _prepare(hidden):
    """Hide modules before anything imports them."""
    sys.modules.update(dict.fromkeys(hidden))
    # NumPy warns of lanes whose results are dropped, and of a deliberate overflow of exp
    warnings.simplefilter("ignore", RuntimeWarning)


def is_imported(name):
    return name in sys.modules
