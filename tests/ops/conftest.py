"""
Processes of their own, for what PyTorch and Triton read once: environment variables and imports.

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
    """Mark the tests that need a process as slow."""
    for item in items:
        uses = {*getattr(item, "fixturenames", ()), *_parameters(item)}
        if uses & {"interpreter", "without_triton"}:
            item.add_marker(pytest.mark.slow)


def _parameters(item):
    callspec = getattr(item, "callspec", None)
    return [x for x in callspec.params.values() if isinstance(x, str)] if callspec else []


@pytest.fixture(scope="session")
def interpreter():
    """A function that calls another one where Triton interprets kernels and PyTorch uses AVX2."""
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {"TRITON_INTERPRET": "1", "ATEN_CPU_CAPABILITY": "avx2"}
    yield from _calls_elsewhere(environment, hidden=[])


@pytest.fixture(scope="session")
def without_triton():
    """A function that calls another one where there is no Triton and PyTorch uses no AVX."""
    yield from _calls_elsewhere({"ATEN_CPU_CAPABILITY": "default"}, hidden=["triton"])


def _calls_elsewhere(environment, hidden):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _prepare, (hidden,)) as pool:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**environment, "OMP_NUM_THREADS": "1"}.items():
                patch.setenv(name, value)
            pool.submit(os.getpid).result(TIMEOUT_S)  # it has started, with those

        def call(function, *args, **options):
            return pool.submit(function, *args, **options).result(TIMEOUT_S)

        yield call


def _prepare(hidden):
    """Hide modules before anything imports them."""
    sys.modules.update(dict.fromkeys(hidden))
    # NumPy warns of lanes whose results are dropped, and of exp that is 0 or infinite by intent
    warnings.simplefilter("ignore", RuntimeWarning)


def is_imported(name):
    return name in sys.modules
