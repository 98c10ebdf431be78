"""
What all benchmarks here share: variants of one piece of work take turns in one process, so that
whatever else the machine does falls upon all of them; medians of many rounds; the most memory that
each needed beyond what was there before; and the machine that it was measured on.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tabulate import tabulate

from focal_plugin.files import write_json

Work = Callable[[], Any]


class Timing(NamedTuple):
    """Of all rounds of one variant."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    cpu_ms: float  # of all threads; what the process itself spent, also where others take its cores


def add_arguments(parser: argparse.ArgumentParser, *, rounds: int | None = None) -> None:
    """
    The options that every benchmark has.

    Args:
        rounds: the default of `--rounds`, for those that have it.
    """
    if rounds is not None:
        parser.add_argument(
            "--rounds", type=int, default=rounds, help="of all variants (default: %(default)s)"
        )
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: %(default)s)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where to write what was measured as well"
    )
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)


def take_turns(variants: Mapping[str, Work], rounds: int, *, warmup: int = 1) -> dict[str, Timing]:
    """
    Time each variant once a round.

    Args:
        variants: name -> work; what it returns is dropped outside of the time that is taken.
        rounds: those that count.
        warmup: rounds before, which do not.
    """
    walls: dict[str, list[float]] = {name: [] for name in variants}
    cpus: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(-warmup, rounds):
        for name, work in variants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            result = work()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            del result
            if number >= 0:
                walls[name].append(1e3 * wall)
                cpus[name].append(1e3 * cpu)
    return {name: _timing(walls[name], cpus[name]) for name in variants}


def extra_peaks_mib(variants: Mapping[str, Work], args: argparse.Namespace) -> dict[str, float]:
    """
    The most that the process held while a variant worked beyond what it held before, in MiB, by the
    kernel's own account (Linux).

    It is measured by the same script in a process of its own, in which every large block is mapped
    and given back at once: so what the allocator keeps for later is not mistaken for what is in
    use, and what is in use not hidden in what it kept. In that process this does not return.
    """
    if args.memory_only:
        print(json.dumps({name: _extra_peak_mib(work) for name, work in variants.items()}))
        sys.exit()
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
    command = [sys.executable, *sys.argv, "--memory-only"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    """What decides the numbers: processor, threads, versions, allocator."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    names = ("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES", "THP_MEM_ALLOC_ENABLE", "OMP_", "ATEN_")
    settings = {name: value for name, value in os.environ.items() if name.startswith(names)}
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "allocator": " ".join(platform.libc_ver()) + " malloc",
        "settings": settings,
        "load": os.getloadavg()[0],
        "command": shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
    }


def report(rows: list[dict[str, Any]], *, file: Path | None, **facts: Any) -> None:
    """
    Print a table, and write it with everything around it.

    Args:
        rows: one a variant; the keys of the first are the columns. A number is rounded for the
            table only.
        file: where to; None: nowhere.
        facts: what else is to be kept.
    """
    about = machine()
    print(
        f"{about['processor']}, {about['threads']} threads, {about['vectors']}, "
        f"torch {about['torch']}, {about['allocator']} {about['settings'] or ''}, "
        f"load {about['load']:.1f}"
    )
    print(tabulate([[_short(x) for x in row.values()] for row in rows], headers=[*rows[0]]))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"machine": about, **facts, "rows": rows})


def _short(value: Any) -> Any:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 100
        else (f"{value:.0f}" if isinstance(value, float) else value)
    )


def _timing(walls: list[float], cpus: list[float]) -> Timing:
    if len(walls) == 1:
        return Timing(walls[0], walls[0], walls[0], cpus[0])
    fifths = statistics.quantiles(walls, n=5, method="inclusive")
    return Timing(statistics.median(walls), fifths[0], fifths[-1], statistics.median(cpus))


def _extra_peak_mib(work: Work) -> float:
    work()  # what is made once stays
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status_mib("VmRSS")
    result = work()
    peak = _status_mib("VmHWM")
    del result
    return max(peak - before, 0.0)


def _status_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
