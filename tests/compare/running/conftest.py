import pytest

from focal_plugin.compare.running import run_one, runner, trainer_process


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch):
    """Poll faster, because these runs take a second; processes of the tests inherit it."""
    for module in (run_one, runner, trainer_process):
        monkeypatch.setattr(module, "POLL_S", 0.05)
    monkeypatch.setattr(runner, "LOOK_S", 0.2)
