"""Command `focal-plugin init`: writes the config and the spec of a first comparison."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..audit import audit_config
from ..compare.plan.arm_check import ArmCheck
from ..compare.plan.seeds import MAX_RUNS
from ..compare.plan.spec import read_plan
from ..components import import_components
from ..data import registered
from ..files import write_text
from ..names import shown
from .design import ARMS, design
from .duration import parse_duration
from .machine import busy_processors, this_machine
from .recipes import RECIPES
from .sources import dataset_prefix, find_sources
from .written import BASE, SPEC, base_text, compare_text

LARGEST_INPUT = 4096
"""Largest `--input-size`, in pixels."""
SMALLEST_INPUT = 32
"""Smallest `--input-size`, in pixels."""
ENOUGH_SEEDS = 4
"""Number of seeds below which no verdict is possible."""
BUSY = 1.0
"""Busy processors at the start from which on the time of a step is wrong."""
LABEL_WIDTH = 9
"""Columns of the labels of the facts."""


def main(args: argparse.Namespace) -> int:
    """
    Write `NAME/base.yaml` and `NAME/compare.yaml`, and print what was decided.

    Returns:
        0.

    Raises:
        FileExistsError: `NAME` exists.
        FileNotFoundError: a file or an image folder does not exist.
        DataError: training on the data would be refused.
        ValueError: an argument is illegal, or the budget is too small.
    """
    budget_s = parse_duration(args.budget)
    _check_numbers(args)
    import_components(args.imports)
    machine, load = this_machine(args.jobs), busy_processors()
    target = Path(args.name)
    command = f"focal-compare run {shlex.quote(str(target / SPEC))}"
    if args.jobs is not None:
        command += f" --jobs {args.jobs}"
    with _new_folder(target) as folder:
        prefix = dataset_prefix(target.absolute().name)
        sources = find_sources(args.train, args.val, prefix=prefix, folder=folder)
        if load >= BUSY:
            print(_warning(load), file=sys.stderr)
        print("Reading the data, and timing a few steps ...", file=sys.stderr)
        with registered(sources.files):
            found = design(
                RECIPES[args.size],
                sources.train,
                sources.test,
                seeds=args.seeds,
                budget_s=budget_s,
                machine=machine,
                input_size=args.input_size,
            )
            audit = audit_config(found.draft.cfg, test=[sources.test], proposal=False)
        write_text(folder / BASE, base_text(args.size, sources, found))
        write_text(
            folder / SPEC,
            compare_text(
                target.absolute().name,
                command,
                folder,
                sources,
                found,
                seeds=args.seeds,
                imports=args.imports,
            ),
        )
        read_plan(folder / SPEC, ArmCheck())
    facts = {**sources.notes, **found.facts}
    if args.seeds < ENOUGH_SEEDS:
        facts["seeds"] = f"{args.seeds} of each arm: a first look; a verdict needs {ENOUGH_SEEDS}"
    print("\n".join(f"{label:<{LABEL_WIDTH}} {text}" for label, text in facts.items()))
    if audit.red:
        print("\nBefore training, the audit says:")
        print("\n".join(f"  {sentence.text}" for sentence in audit.red))
    print(f"\nWritten: {target / BASE}, {target / SPEC}")
    print(f"Next: {command}")
    return 0


def _warning(load: float) -> str:
    return (
        f"WARNING: {load:.1f} processors were busy before, so the time of a step will be too high; "
        "give the command again on an idle machine"
    )


def _check_numbers(args: argparse.Namespace) -> None:
    most = MAX_RUNS // len(ARMS)
    if not 1 <= args.seeds <= most:
        raise ValueError(f"--seeds must be from 1 to {most}, got {shown(args.seeds)}")
    size = args.input_size
    if size is not None and not SMALLEST_INPUT <= size <= LARGEST_INPUT:
        raise ValueError(
            f"--input-size must be from {SMALLEST_INPUT} to {LARGEST_INPUT} pixels, got {size}"
        )


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """
    Provide a folder beside the target that becomes the target, unless an error occurs.

    Raises:
        FileExistsError: the target exists.
    """
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"{target} exists; choose another NAME, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    folder.mkdir()
    try:
        yield folder
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
