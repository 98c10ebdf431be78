from concurrent.futures import ThreadPoolExecutor

import pytest

from .planted import hold_at
from .runs import DRAWS_AND_COUNTS, TWO_PROCESSES, WARMS_UP_AND_BALANCES, Runs

REFERENCES = {
    "one process": {"flags": (), "keys": {}},
    "two processes": {"flags": TWO_PROCESSES, "keys": {}},
    "two stages": {"flags": (), "keys": DRAWS_AND_COUNTS},
    "warms up and balances": {"flags": (), "keys": WARMS_UP_AND_BALANCES},
}


@pytest.fixture(scope="session")
def runs_in(fork_server, tiny_shapes):
    """Return Runs(folder); its processes end with the session."""
    made = []

    def make(folder):
        folder.mkdir(parents=True, exist_ok=True)
        made.append(Runs(folder, tiny_shapes))
        return made[-1]

    yield make
    for runs in made:
        runs.clean_up()


@pytest.fixture
def runs(runs_in, tmp_path):
    runs = runs_in(tmp_path)
    yield runs
    runs.clean_up()


@pytest.fixture(scope="session")
def references(runs_in, tmp_path_factory):
    """Start the uninterrupted runs; return name -> run."""
    return {
        name: runs_in(tmp_path_factory.mktemp("reference")).start(*how["flags"], **how["keys"])
        for name, how in REFERENCES.items()
    }


@pytest.fixture(scope="session")
def reference(references):
    """Return a function from a name to the output folder of the finished uninterrupted run."""
    return lambda name="one process": references[name].succeed().output


@pytest.fixture(scope="session")
def killed(runs_in, tmp_path_factory):
    """Return the folder of a run killed at iteration 6, with checkpoints of 2 and 5."""
    run = runs_in(tmp_path_factory.mktemp("killed")).start(plants=[hold_at(6)])
    run.held()
    run.kill()
    return run.output


@pytest.fixture(scope="session")
def in_background():
    """
    Return `in_background(function, *arguments)`, which returns a Future.

    As many calls run at once as there are cores.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield pool.submit
        pool.shutdown(cancel_futures=True)
