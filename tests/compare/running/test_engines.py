"""Tests of the engines: processors and GPUs of each run; Ray and Slurm with dying workers."""

import itertools
import json
import os
import signal
import sys
from types import SimpleNamespace

import pytest

from focal_plugin.compare.running import runner
from focal_plugin.compare.running.engines import Options, make_engine, ray, slurm
from focal_plugin.compare.running.engines.remote import StopFile, allowed_variables
from focal_plugin.compare.running.engines.resources import divide, visible_gpus
from focal_plugin.compare.running.runner import run_all
from focal_plugin.compare.running.trainer_process import Urgency
from focal_plugin.compare.runs.status import Status

from .fakes import (
    PATIENCE_S,
    ForkedPython,
    fake_options,
    fake_run,
    fake_task,
    in_background,
    lines_of,
    sweep,
    wait_until,
)


def division(gpus="", processors=8, **options):
    found = divide(Options(**options), list(gpus), processors)
    return found.jobs, found.threads, ["".join(slot) for slot in found.gpus]


def test_processors_are_divided_and_no_run_is_left_without_one():
    assert division() == (1, 8, [])
    assert division(jobs=3) == (3, 2, [])
    assert division(jobs=20) == (20, 1, [])
    assert division(jobs=2, cpus_per_run=3) == (2, 3, [])


def test_gpus_are_handed_out_whole_or_shared():
    assert division("0123") == (4, 2, ["0", "1", "2", "3"])
    assert division("0123", jobs=2) == (2, 4, ["0", "1"])
    assert division("01234", gpus_per_run=2) == (2, 4, ["01", "23"])
    assert division("01", gpus_per_run=0.5) == (4, 2, ["0", "1", "0", "1"])
    assert division("01", gpus_per_run=0.5, jobs=2) == (2, 4, ["0", "1"])
    assert division("01", gpus_per_run=0, jobs=3) == (3, 2, [])


def test_more_jobs_than_gpus_share_them_evenly():
    assert division("0", jobs=3) == (3, 2, ["0", "0", "0"])
    assert division("01", jobs=3) == (3, 2, ["0", "1", "0"])
    assert division("01", jobs=5) == (5, 1, ["0", "1", "0", "1", "0"])
    for jobs in range(1, 100):
        assert division("0", jobs=jobs)[2] == ["0"] * jobs
    # Ray gives a task its share of one GPU
    assert divide(Options(jobs=3), ["0", "1"], 8).gpus_per_run == 0.5
    assert divide(Options(), ["0", "1"], 8).gpus_per_run == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "jobs must be >= 1, got 0"),
        ({"jobs": 3, "gpus_per_run": 1}, "3 runs at a time require more than the 2 available GPU"),
        ({"gpus_per_run": 1.5}, "whole number, or between 0 and 1, got 1.5"),
        ({"gpus_per_run": -1}, "got -1"),
        ({"gpus_per_run": 4}, "4 GPU.s. per run requested, but only 2 available"),
    ],
)
def test_options_that_exceed_the_machine_are_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        division("01", **options)


@pytest.mark.parametrize(
    ("value", "gpus"),
    [
        ("2,3", ["2", "3"]),
        ("", []),
        ("-1", []),
        ("1,-1,2", ["1"]),
        (" GPU-ab , 1", ["GPU-ab", "1"]),
    ],
)
def test_only_visible_gpus_are_used(monkeypatch, value, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == gpus


def test_each_run_has_its_own_gpus_and_its_share_of_the_processors(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    runs = [fake_run(seed=seed, steps=20, step_s=0.02) for seed in (1, 2)]
    options = fake_options(gpus_per_run=2, cpus_per_run=3)
    assert [status.state for status in run_all(runs, tmp_path, options)] == ["done", "done"]
    written = [json.loads((tmp_path / run.id / "env.json").read_text()) for run in runs]
    variables = [content["variables"] for content in written]
    assert {x["CUDA_VISIBLE_DEVICES"] for x in variables} == {"4,5", "6,7"}
    assert {x["OMP_NUM_THREADS"] for x in variables} == {"3"}
    assert all("--num-gpus" in content["arguments"] for content in written)


def test_small_runs_share_a_gpu_at_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    runs = [fake_run(seed=seed, steps=40, step_s=0.05) for seed in (1, 2)]
    run_all(runs, tmp_path, fake_options(jobs=2))
    folders = [tmp_path / run.id for run in runs]
    written = [json.loads((folder / "env.json").read_text()) for folder in folders]
    assert [content["variables"]["CUDA_VISIBLE_DEVICES"] for content in written] == ["7", "7"]
    assert not any("--num-gpus" in content["arguments"] for content in written)
    started = max((folder / "starts").stat().st_mtime for folder in folders)
    assert started < min((folder / "finishes").stat().st_mtime for folder in folders)


def test_no_more_runs_at_a_time_than_jobs(tmp_path, capsys):
    runs = [fake_run(seed=seed) for seed in range(4)]
    run_all(runs, tmp_path, fake_options(jobs=1))
    moments = []
    for run in runs:
        folder = tmp_path / run.id
        moments.append(((folder / "starts").stat().st_mtime, (folder / "finishes").stat().st_mtime))
    moments.sort()
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(moments))
    assert "local: 1 run(s) at a time" in capsys.readouterr().err


def test_an_unknown_engine_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="one of local, ray, slurm, got 'cron'"):
        make_engine(Options(engine="cron"), tmp_path)


@pytest.mark.parametrize(("engine", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed_says_how_to_install_it(
    tmp_path, monkeypatch, engine, module
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'focal_plugin\[{engine}\]'"):
        make_engine(Options(engine=engine), tmp_path)


def test_only_allowed_variables_leave_the_shell():
    secret = {"AWS_SECRET_ACCESS_KEY": "1", "HF_TOKEN": "2", "BASH_FUNC_x%%": "3"}
    needed = {"PATH": "/bin", "DETECTRON2_DATASETS": "/data", "SLURM_JOB_ID": "7"}
    assert allowed_variables({**secret, **needed}) == needed


def test_a_stop_file_holds_the_urgency_until_it_is_removed(tmp_path):
    def seen():
        reader = StopFile.__new__(StopFile)
        reader.__dict__.update(stop_file.__dict__, _looked=-1e9)
        return reader.urgency()

    stop_file = StopFile(tmp_path)
    assert seen() is Urgency.GO_ON
    stop_file.ask(Urgency.STOP)
    assert seen() is Urgency.STOP
    stop_file.ask(Urgency.KILL)
    assert seen() is Urgency.KILL
    stop_file.remove()
    assert seen() is Urgency.GO_ON
    assert os.listdir(tmp_path) == []


def test_slurm_gets_the_resources_and_no_secrets(tmp_path, monkeypatch):
    """The commands of Slurm are replaced by scripts that record their input."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("srun", "sbatch", "sacct"):
        script = tools / name
        script.write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/{name}.given\necho batch job 12\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("MY_TOKEN", "secret-value")
    options = fake_options(
        engine="slurm", jobs=1, cpus_per_run=6, gpus_per_run=2, slurm={"slurm_partition": "short"}
    )
    engine = make_engine(options, tmp_path / "runs")
    assert len(engine.submit([fake_task(tmp_path), fake_task(tmp_path, fake_run("FL"))])) == 2
    script = (tmp_path / "sbatch.given").read_text()
    for line in (
        "--array=0-1%1",
        "--cpus-per-task=6",
        "--gpus-per-node=2",
        "--partition=short",
        "--signal=USR2@60",
    ):
        assert f"#SBATCH {line}\n" in script
    exported = next(x for x in script.splitlines() if "--export" in x)
    assert "PATH" in exported
    # srun passes on only these, and submitit looks for its own variable
    assert "SUBMITIT_EXECUTOR" in exported
    assert "MY_TOKEN" not in script
    assert "secret-value" not in script


@pytest.fixture
def queued(tmp_path, monkeypatch):
    """Return the handles of two jobs, 12_0 and 12_1, and the file that `squeue` shows."""
    tools = tmp_path / "tools"
    tools.mkdir()
    queue = tmp_path / "queue"
    scripts = {
        "sbatch": "echo batch job 12",
        "srun": "",
        "squeue": f"cat {queue}",
        "scancel": f"echo $1 >> {tmp_path}/cancelled",
    }
    for name, line in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "POLL_S", 0.0)
    engine = make_engine(fake_options(engine="slurm", gpus_per_run=0), tmp_path / "runs")
    queue.write_text("12_0 RUNNING\n12_1 PENDING\n7 RUNNING\n")
    return engine, engine.submit([fake_task(tmp_path), fake_task(tmp_path)]), queue


def test_a_slurm_job_is_lost_once_two_looks_at_the_queue_miss_it(queued):
    _, (first, second), queue = queued
    assert not first.done()
    assert not second.done()
    queue.write_text("12_1 PENDING\n")
    assert not first.done()  # Slurm may move it back into the queue
    assert first.done()
    assert not second.done()
    with pytest.raises(RuntimeError, match=r"job 12_0 ended without a result, see .*12_0"):
        first.result()
    queue.unlink()  # then squeue fails, as it does while the controller restarts
    assert not second.done()
    assert not second.done()


def test_a_slurm_job_is_not_judged_by_a_look_before_its_submission(queued, tmp_path, monkeypatch):
    engine, (first, _), queue = queued
    queue.write_text("12_1 PENDING\n")
    assert not first.done()
    assert first.done()
    monkeypatch.setattr(slurm, "POLL_S", 60.0)
    (again, _) = engine.submit([fake_task(tmp_path), fake_task(tmp_path)])  # of the same names
    assert not again.done()


@pytest.mark.parametrize(
    ("urgency", "cancelled"), [(Urgency.STOP, ["12_1"]), (Urgency.KILL, ["12_0", "12_1"])]
)
def test_a_stop_cancels_the_slurm_jobs_that_wait(queued, tmp_path, urgency, cancelled):
    engine, handles, _ = queued
    assert not any(handle.done() for handle in handles)
    engine.stop(urgency)
    assert lines_of(tmp_path / "cancelled") == cancelled


@pytest.mark.slow
def test_a_terminated_slurm_job_saves_its_run_and_leaves_no_result(tmp_path):
    task = fake_task(tmp_path, fake_run(steps=300, step_s=0.05))
    task.folder.mkdir()
    job = in_background(slurm.RunJob(task, 1, StopFile(tmp_path)))
    wait_until(lambda: is_midway(task.folder), job)
    os.kill(job.pid, signal.SIGTERM)
    job.join(PATIENCE_S)
    assert job.exitcode == slurm.TERMINATED
    assert Status.read(task.folder) == Status("pending", attempts=1)
    assert len(lines_of(task.folder / "iterations")) == int(
        (task.folder / "last_checkpoint").read_text()
    )


def trainer_and_parent(folder):
    return tuple(map(int, lines_of(folder / "starts")[-1].split()))


def is_midway(folder):
    return len(lines_of(folder / "iterations")) > 2


def check_all_finished_once(process, runs, folder):
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    for run in runs:
        own = folder / run.id
        assert Status.read(own).state == "done"
        # an iteration repeats if its trainer was killed before the checkpoint
        assert len(lines_of(own / "iterations")) <= run.iterations + 1


@pytest.fixture
def seldom(monkeypatch):
    """Poll less often, because polling by Ray and submitit is expensive."""
    monkeypatch.setattr(runner, "POLL_S", 0.5)
    monkeypatch.setattr(runner, "LOOK_S", 1.0)


def test_a_signal_ends_a_sweep_on_ray_as_any_other(tmp_path, monkeypatch):
    def init(**options):  # Ray installs a handler that ends the process at once
        signal.signal(signal.SIGTERM, lambda *_: None)

    monkeypatch.setattr(ray, "import_extra", lambda *_: SimpleNamespace(init=init))
    handler = signal.getsignal(signal.SIGTERM)
    options = fake_options(engine="ray", jobs=None, address="auto", gpus_per_run=0)
    try:
        ray.RayEngine(options, tmp_path)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.slow
def test_ray_starts_its_own_instance_and_trains_in_it(seldom, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes a file there
    run = fake_run()
    options = fake_options(engine="ray", jobs=1, cpus_per_run=3)
    process = in_background(sweep, [run], tmp_path / "runs", options)
    check_all_finished_once(process, [run], tmp_path / "runs")
    variables = json.loads((tmp_path / "runs" / run.id / "env.json").read_text())["variables"]
    assert variables["OMP_NUM_THREADS"] == "3"


@pytest.mark.slow
def test_slurm_finishes_a_run_although_its_job_is_killed_and_preempted(
    seldom, tmp_path, monkeypatch
):
    pytest.importorskip("submitit", reason="the extra [slurm] is not installed")
    monkeypatch.setattr("submitit.local.local.subprocess", SimpleNamespace(Popen=ForkedPython))
    # submitit waits for the result, which a killed job does not write
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0.5)
    run = fake_run(steps=60, step_s=0.05)
    options = fake_options(engine="slurm", cluster="local", cpus_per_run=1)
    process = in_background(sweep, [run], tmp_path, options)
    own = tmp_path / run.id
    wait_until(lambda: is_midway(own), process)
    killed = trainer_and_parent(own)
    os.kill(killed[1], signal.SIGKILL)
    wait_until(lambda: trainer_and_parent(own) != killed, process)
    before = len(lines_of(own / "iterations"))
    wait_until(lambda: len(lines_of(own / "iterations")) > before, process)
    os.kill(trainer_and_parent(own)[1], signal.SIGUSR2)
    check_all_finished_once(process, [run], tmp_path)
    assert Status.read(own).attempts == 3
    # after the stop it resumed exactly
    *_, first = lines_of(own / "iterations")[before : before + 1]
    assert lines_of(own / "iterations")[before:] == [str(i) for i in range(int(first), 60)]
