"""No code in a file is run, and nothing is downloaded."""

import os
import pickle
import socket

import pytest
import torch

from .planted import RecordConnections
from .runs import ONE_STAGE


class Payload:
    """Object that creates a folder when it is unpickled."""

    def __init__(self, folder):
        self._folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self._folder),)


@pytest.fixture
def proof(tmp_path):
    """Return a folder that exists only after code was run."""
    return tmp_path / "code_was_run"


@pytest.fixture
def config(tmp_path, proof):
    file = tmp_path / "config.yaml"
    file.write_text(
        f'_BASE_: "{ONE_STAGE}"\n'
        f'OUTPUT_DIR: !!python/object/apply:os.path.join ["{tmp_path}", "run"]\n'
        f'VERSION: !!python/object/apply:os.mkdir ["{proof}"]\n'
    )
    return file


def test_a_config_runs_no_code(runs, config, proof):
    run = runs.start(config=config)
    assert run.wait() != 0
    assert not proof.exists()
    assert str(config) in run.last_line
    assert "--allow-unsafe-yaml" in run.last_line
    assert "!!python/object/apply:os." in run.last_line


def test_a_config_runs_code_if_asked_for(runs, config, proof):
    runs.start("--allow-unsafe-yaml", config=config).wait()
    assert proof.exists()


def test_a_config_is_not_fetched(runs, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/base.yaml"
        config = tmp_path / "config.yaml"
        config.write_text(f'_BASE_: "{address}"\n')
        for flags in ((), ("--allow-unsafe-yaml",)):
            run = runs.start(*flags, config=config, plants=[RecordConnections()])
            assert run.wait() != 0
            assert address in run.last_line
            assert run.connections() == ""
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("flags", [(), ("--trust-pickle",)])
@pytest.mark.parametrize("name", ["weights.pkl", "weights.pth", "weights_abcdef.pkl"])
def test_weights_run_no_code(runs, tmp_path, proof, name, flags):
    file = tmp_path / name
    content = {"model": {"a": Payload(proof)}, "__author__": "someone"}
    if file.suffix == ".pkl":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    run = runs.start(*flags, MODEL__WEIGHTS=file)
    assert run.wait() == 2
    assert not proof.exists()
    assert run.last_line.startswith("CheckpointError: ")
    assert str(file) in run.last_line


def test_a_checkpoint_that_a_run_resumes_from_runs_no_code(runs, proof):
    runs.output.mkdir()
    torch.save(
        {"model": {}, "iteration": 1, "x": Payload(proof)}, runs.output / "model_0000001.pth"
    )
    (runs.output / "last_checkpoint").write_text("model_0000001.pth")
    run = runs.resume()
    assert run.wait() == 2
    assert not proof.exists()
    assert "model_0000001.pth contains an object other than a tensor" in run.last_line


def test_a_run_without_weights_asks_nobody(runs):
    run = runs.start(plants=[RecordConnections()], MODEL__WEIGHTS="").succeed()
    assert run.connections() == ""


def test_a_connection_would_be_recorded(runs):
    address = "https://127.0.0.1:9/weights.pth"
    run = runs.start(plants=[RecordConnections()], MODEL__WEIGHTS=address)
    assert run.wait() != 0
    assert "127.0.0.1" in run.connections()
