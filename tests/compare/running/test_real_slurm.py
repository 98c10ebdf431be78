"""A sweep on a real Slurm, which the test starts on this machine."""

import subprocess
from pathlib import Path

import pytest

from focal_plugin.compare.running.engines import slurm
from focal_plugin.compare.runs.status import Status

from ...tools import load_tool
from .fakes import PATIENCE_S, fake_options, fake_run, in_background, lines_of, sweep, wait_until

local_slurm = load_tool("local_slurm")
MISSING = local_slurm.missing_programs()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


@pytest.fixture
def cluster(monkeypatch):
    """Start Slurm with two processors, and look at its queue every second."""
    pytest.importorskip("submitit", reason="the extra [slurm] is not installed")
    monkeypatch.setattr(slurm, "POLL_S", 1.0)
    monkeypatch.setattr(slurm.SlurmEngine, "poll_s", 1.0)
    with local_slurm.local_slurm(cpus=2) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield


def job_of(folder):
    """Return the name of the Slurm job that trains a run now."""
    worker = lines_of(folder / "starts")[-1].split()[1]
    variables = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    (job,) = (x for x in variables if x.startswith(b"SLURM_ARRAY_JOB_ID="))
    (task,) = (x for x in variables if x.startswith(b"SLURM_ARRAY_TASK_ID="))
    return f"{job.decode().partition('=')[2]}_{task.decode().partition('=')[2]}"


def test_a_requeued_and_a_cancelled_job_resume_and_all_runs_finish(cluster, tmp_path):
    requeued, cancelled = runs = [fake_run(seed=seed, steps=60, step_s=0.05) for seed in (1, 2)]
    options = fake_options(engine="slurm", cpus_per_run=1, gpus_per_run=0)
    process = in_background(sweep, runs, tmp_path, options)
    for run, command in ((requeued, ["scontrol", "requeue"]), (cancelled, ["scancel"])):
        own = tmp_path / run.id
        wait_until(lambda own=own: len(lines_of(own / "iterations")) > 2, process)
        subprocess.run([*command, job_of(own)], check=True)
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    for run in runs:
        own = tmp_path / run.id
        assert Status.read(own) == Status("done", attempts=2)
        # Slurm's SIGTERM stopped both trainers between two iterations
        assert lines_of(own / "iterations") == [str(i) for i in range(60)]
    assert (tmp_path / "slurm" / "1_0_0_result.pkl").exists()
    assert not (tmp_path / "slurm" / "1_1_0_result.pkl").exists()
