"""Effect of a signal on a training loop; tests/faults sends signals to real processes."""

import os
import signal

import pytest
import torch
from detectron2.engine import TrainerBase
from torch import nn

from focal_plugin.engine.checkpoints.checkpointer import Checkpointer
from focal_plugin.engine.hooks.stopping import StopHook
from focal_plugin.engine.processes import stop_requests
from focal_plugin.engine.trainer import Trainer
from focal_plugin.signals import JOB_SIGNALS, STOPPED


class Loop(TrainerBase):
    """Trainer whose steps only run the given actions."""

    after_train = Trainer.after_train

    def __init__(self, folder, actions):
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.checkpointer = Checkpointer(self.model, str(folder))
        self.actions = actions
        self.register_hooks([StopHook(self.checkpointer)])

    def run_step(self):
        self.actions.get(self.iter, lambda: None)()


def send(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers_restored():
    before = {x: signal.getsignal(x) for x in JOB_SIGNALS}
    yield
    assert {x: signal.getsignal(x) for x in before} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_the_step_is_finished_and_a_checkpoint_saved(tmp_path, number, capfd):
    loop = Loop(tmp_path, {2: send(number)})
    with pytest.raises(SystemExit) as end:
        loop.train(0, 10)
    assert end.value.code == (130 if number == signal.SIGINT else STOPPED)
    assert capfd.readouterr().err.strip().startswith(f"{signal.Signals(number).name}: the run ends")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    assert torch.load(tmp_path / "model_0000002.pth", weights_only=True)["iteration"] == 2


def test_a_periodic_checkpoint_is_not_saved_again(tmp_path):
    loop = Loop(tmp_path, {})

    def save_and_stop():
        loop.checkpointer.save("model_0000002", iteration=2)
        loop.checkpointer.save = None
        send(signal.SIGTERM)()

    loop.actions = {2: save_and_stop}
    with pytest.raises(SystemExit):
        loop.train(0, 10)


def test_an_existing_handler_is_called_too(tmp_path):
    calls = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: calls.append(number))
    try:
        with pytest.raises(SystemExit):
            Loop(tmp_path, {2: send(signal.SIGUSR1)}).train(0, 10)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert calls == [signal.SIGUSR1]


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        Loop(tmp_path, {2: send(signal.SIGUSR1)}).train(0, 4)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not (tmp_path / "last_checkpoint").exists()


def test_the_same_request_may_arrive_twice(tmp_path):
    loop = Loop(tmp_path, {})
    loop.actions = {2: lambda: [send(signal.SIGTERM)(), send(signal.SIGTERM)()]}
    with pytest.raises(SystemExit):
        loop.train(0, 10)
    assert (tmp_path / "last_checkpoint").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_request_ends_it_at_once(tmp_path, monkeypatch, number):
    monkeypatch.setattr(stop_requests, "SAME_REQUEST_S", 0.0)
    pid = os.fork()
    if pid == 0:
        loop = Loop(tmp_path, {})
        loop.actions = {2: lambda: [send(number)(), send(number)()]}
        try:
            loop.train(0, 10)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -number
    assert not (tmp_path / "last_checkpoint").exists()


def test_an_evaluation_is_broken_off_and_the_step_before_it_saved(tmp_path):
    loop = Loop(tmp_path, {})

    def evaluate():
        loop.model.eval()
        loop.model(torch.zeros(1, 1))
        send(signal.SIGTERM)()
        loop.model(torch.zeros(1, 1))
        raise AssertionError("the evaluation continued")

    loop.actions = {2: evaluate}
    with pytest.raises(SystemExit):
        loop.train(0, 10)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"


def test_after_the_last_step_the_final_checkpoint_is_the_one_to_resume_from(tmp_path):
    loop = Loop(tmp_path, {})
    loop.actions = {
        3: lambda: [
            loop.checkpointer.save("model_final", iteration=3),
            send(signal.SIGTERM)(),
        ]
    }
    with pytest.raises(SystemExit):
        loop.train(0, 4)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
