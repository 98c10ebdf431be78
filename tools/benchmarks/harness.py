"""
Common functions of the benchmarks.

Variants of the same work alternate in one process, so that other load affects all of them equally.
The results are medians of many rounds, the peak memory of each variant in addition to the memory
before, and a description of the machine.
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
from focal_plugin.ops import empty_cache

Work = Callable[[], Any]


class Timing(NamedTuple):
    """Time of all rounds of one variant."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    cpu_ms: float  # all threads of this process; unaffected by other processes on its cores


def add_arguments(parser: argparse.ArgumentParser, *, rounds: int | None = None) -> None:
    """
    Add the options that every benchmark has.

    Args:
        rounds: default of `--rounds`. None: the benchmark has no such option.
    """
    if rounds is not None:
        parser.add_argument(
            "--rounds", type=int, default=rounds, help="of all variants (default: %(default)s)"
        )
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of PyTorch (default: %(default)s)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the measurements to FILE"
    )
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)


def take_turns(variants: Mapping[str, Work], rounds: int, *, warmup: int = 1) -> dict[str, Timing]:
    """
    Time each variant once a round.

    Args:
        variants: name -> work; results are freed outside the measured time.
        rounds: number of measured rounds.
        warmup: number of rounds before the measurement.
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
    Return the peak memory of each variant in addition to the memory before, in MiB.

    The kernel reports it (Linux). The same script measures it in another process, in which the
    allocator maps and releases every large block at once. Cached memory is therefore neither
    counted as used nor hides used memory. In that process this function does not return.
    """
    if args.memory_only:
        print(json.dumps({name: _extra_peak_mib(work) for name, work in variants.items()}))
        sys.exit()
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
    command = [sys.executable, *sys.argv, "--memory-only"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    """Return the facts that affect the times: processor, threads, versions, allocator."""
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
    Print a table, and write it with all facts to a file.

    Args:
        rows: one row per variant; the keys of the first row are the columns. Numbers are rounded
            only in the table.
        file: output file. None: write no file.
        facts: further facts to store.
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
    work()  # memory of one-time initialization stays
    gc.collect()
    empty_cache()  # otherwise the gradient would be memory from before
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = status_mib("VmRSS")
    result = work()
    peak = status_mib("VmHWM")
    del result
    return max(peak - before, 0.0)


def status_mib(field: str) -> float:
    """Return a field of this process's memory, such as VmHWM, the peak; Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
