from concurrent.futures import ThreadPoolExecutor

import pytest

from .planted import hold_at
from .runs import TWO_PROCESSES, TWO_STAGE, Runs

REFERENCES = {
    "one process": {"flags": (), "keys": {}},
    "two processes": {"flags": TWO_PROCESSES, "keys": {}},
    "two stages": {"flags": (), "keys": {"config": TWO_STAGE}},
}


@pytest.fixture(scope="session")
def runs_in(fork_server, tiny_shapes):
    """Runs(folder); they are cleaned up at the end of the session."""
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
    """Name -> a run that nothing has interrupted."""
    return {
        name: runs_in(tmp_path_factory.mktemp("reference")).start(*how["flags"], **how["keys"])
        for name, how in REFERENCES.items()
    }


@pytest.fixture(scope="session")
def reference(references):
    """Its folder, by its name, once it has ended."""
    return lambda name="one process": references[name].succeed().output


@pytest.fixture(scope="session")
def killed(runs_in, tmp_path_factory):
    """The folder of a run that was killed at iteration 6, with checkpoints of 2 and 5."""
    run = runs_in(tmp_path_factory.mktemp("killed")).start(plants=[hold_at(6)])
    run.held()
    run.kill()
    return run.output


@pytest.fixture(scope="session")
def in_background():
    """
    `in_background(function, *arguments)` gives a Future: as many tests as there are cores at once.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield pool.submit
        pool.shutdown(cancel_futures=True)
