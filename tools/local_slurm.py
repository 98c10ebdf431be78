#!/usr/bin/env python3
r"""
Run a command beside a real Slurm, which this machine starts for it and stops after it.

    $ apt-get install slurmctld slurmd munge slurm-client
    $ python tools/local_slurm.py focal-compare run my_comparison.yaml --engine slurm \
          --gpus-per-run 0

It requires root, or a user that may run the daemons. All files lie in one temporary folder. The
cluster is this machine with as many processors as `--cpus` says, also if it has fewer. It has no
accounting, so that `sacct` answers nothing, as on many small clusters.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
START_S = 60.0
STOP_S = 10.0
POLL_S = 0.2

CONFIG = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
# A requeued job starts after the life of its credential; the default is two minutes
AuthInfo=socket={folder}/munge.socket,cred_expire=5
KillWait={kill_wait_s}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpus", type=int, default=os.cpu_count(), help="default: %(default)s")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if missing := missing_programs():
        parser.error(f"not installed: {', '.join(missing)}")
    with local_slurm(cpus=args.cpus) as variables:
        return subprocess.run(args.command, env={**os.environ, **variables}).returncode


def missing_programs() -> list[str]:
    """Return the programs of Slurm and munge that this machine lacks."""
    return [name for name in (*DAEMONS, *CLIENTS) if _find(name) is None]


@contextlib.contextmanager
def local_slurm(*, cpus: int, kill_wait_s: int = 30) -> Iterator[dict[str, str]]:
    """
    Run a cluster of one node.

    Args:
        cpus: processors of the node.
        kill_wait_s: seconds between the SIGTERM and the SIGKILL of a job.

    Yields:
        environment variables for the clients.

    Raises:
        RuntimeError: a daemon ended, or the node is not ready in time; the message ends with the
            logs.
    """
    # Not below a longer path, because the path of a socket must be short
    with tempfile.TemporaryDirectory(prefix="slurm_") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        folder.chmod(0o755)  # or munged does not trust it
        config = folder / "slurm.conf"
        config.write_text(_config(folder, cpus, kill_wait_s), encoding="utf-8")
        variables = {"SLURM_CONF": str(config)}
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        commands = (
            ["munged", "--foreground", f"--key-file={key}", *_munge_files(folder)],
            ["slurmctld", "-D", "-c", "-f", str(config)],
            ["slurmd", "-D", "-f", str(config), "-N", socket.gethostname()],
        )
        processes = [stack.enter_context(_daemon(command, folder)) for command in commands]
        _wait_until_ready(processes, variables, folder)
        try:
            yield variables
        finally:
            _end_jobs(variables)


def _config(folder: Path, cpus: int, kill_wait_s: int) -> str:
    controller_port, node_port = _free_ports()
    return CONFIG.format(
        host=socket.gethostname(),
        user=getpass.getuser(),
        controller_port=controller_port,
        node_port=node_port,
        folder=folder,
        kill_wait_s=kill_wait_s,
        cpus=cpus,
    )


def _munge_files(folder: Path) -> list[str]:
    names = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    return [f"--{option}={folder}/munge.{ending}" for option, ending in names.items()]


def _find(name: str) -> str | None:
    # A user's path often lacks the folder of the daemons
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for listener in (first, second):
            listener.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


@contextlib.contextmanager
def _daemon(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    name = command[0]
    with (folder / f"{name}.out").open("wb") as output:
        process = subprocess.Popen(
            [_find(name) or name, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the command
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(
    processes: list[subprocess.Popen[bytes]], variables: dict[str, str], folder: Path
) -> None:
    deadline = time.monotonic() + START_S
    while _ask(["sinfo", "--noheader", "--format=%T"], variables).strip() not in ("idle", "mixed"):
        ended = [process.args for process in processes if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            logs = "\n".join(
                f"== {file.name}\n{file.read_text(errors='replace')[-2000:]}"
                for file in sorted([*folder.glob("*.log"), *folder.glob("*.out")])
            )
            raise RuntimeError(f"Slurm did not start; ended: {ended}\n{logs}")
        time.sleep(POLL_S)


def _ask(command: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    return done.stdout


def _end_jobs(variables: dict[str, str]) -> None:
    """Cancel what is left, because a job outlives the daemons."""
    _ask(["scancel", f"--user={getpass.getuser()}", "--signal=KILL", "--full"], variables)
    _ask(["scancel", f"--user={getpass.getuser()}"], variables)
    deadline = time.monotonic() + STOP_S
    while _ask(["squeue", "--noheader"], variables) and time.monotonic() < deadline:
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main())
