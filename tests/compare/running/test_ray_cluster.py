"""A sweep on a Ray cluster of three nodes, which the test starts on this machine."""

import os
import signal
import tempfile

import pytest

from focal_plugin.compare.running import runner
from focal_plugin.compare.runs.status import Status

from .fakes import PATIENCE_S, fake_options, fake_run, in_background, lines_of, sweep, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def short_folder():
    """Return a folder with a short path, because the path of a socket must be short."""
    with tempfile.TemporaryDirectory(prefix="ray_") as folder:
        yield folder


@pytest.fixture
def own_handler():
    """Restore the handler of SIGTERM, which a node of Ray replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def node_of(folder, cluster):
    """Return the node, other than the head, that trains a run now; None if it is the head."""
    _, worker = map(int, lines_of(folder / "starts")[-1].split())
    raylet = parent_of(worker)
    nodes = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    return nodes.get(raylet)


def test_the_run_of_a_node_that_dies_resumes_on_another_node(
    tmp_path, short_folder, own_handler, monkeypatch
):
    cluster_utils = pytest.importorskip(
        "ray.cluster_utils", reason="the extra [ray] is not installed"
    )
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes a file there
    monkeypatch.setenv("RAY_TMPDIR", short_folder)
    monkeypatch.setattr(runner, "POLL_S", 0.5)
    runs = [fake_run(seed=seed, steps=80, step_s=0.05) for seed in (1, 2, 3)]
    folder, address = tmp_path / "runs", tmp_path / "address"

    def sweep_once_there_is_a_cluster():
        wait_until(address.exists)
        options = fake_options(engine="ray", jobs=None, cpus_per_run=1, address=address.read_text())
        sweep(runs, folder, options)

    process = in_background(sweep_once_there_is_a_cluster)  # a fork, so before Ray has threads
    size = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20}
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={**size, "include_dashboard": False}
    )
    try:
        for _ in range(2):
            cluster.add_node(**size)
        unfinished = tmp_path / "unfinished"
        unfinished.write_text(cluster.address)
        unfinished.rename(address)

        def midway():
            """Return a run that another node than the head trains, and the node."""
            for run in runs:
                if 2 < len(lines_of(folder / run.id / "iterations")) < run.iterations:
                    node = node_of(folder / run.id, cluster)
                    if node is not None:
                        return run, node
            return None

        wait_until(midway, process)
        run, node = midway()
        trainer = int(lines_of(folder / run.id / "starts")[-1].split()[0])
        cluster.remove_node(node, allow_graceful=False)
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    finally:
        cluster.shutdown()
    assert not os.path.exists(f"/proc/{trainer}")
    for each in runs:
        own = folder / each.id
        assert Status.read(own) == Status("done", attempts=2 if each is run else 1)
        assert len(lines_of(own / "finishes")) == 1
        iterations = lines_of(own / "iterations")
        # the one between which and its checkpoint the trainer was killed may repeat
        assert list(dict.fromkeys(iterations)) == [str(i) for i in range(80)]
        assert len(iterations) <= 80 + (each is run)
