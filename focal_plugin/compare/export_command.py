"""Command `focal-compare export`: writes the finished runs where people keep theirs."""

from __future__ import annotations

import argparse

from .export.content import read_exported
from .export.targets import open_target
from .plan.collection import Collection

FOLDER = "export"
"""Folder below that of the comparison, for what a target writes to this machine."""


def main(args: argparse.Namespace) -> int:
    """
    Export the finished runs.

    Returns:
        0.

    Raises:
        FileNotFoundError: the folder contains no comparison.
        ImportError: the package of the target is not installed.
        ValueError: no run is finished, or the target refuses.
    """
    write = open_target(args.to)
    collection = Collection.read(args.runs)
    folders = [""] if collection is None else [member.folder for member in collection.members]
    for name in folders:
        runs = args.runs / name
        exported = read_exported(runs)
        out = args.out / name if args.out else runs / FOLDER / args.to
        where = write(exported, out)
        left = exported.planned - len(exported.runs)
        others = f"; {left} not done" if left else ""
        print(f"{len(exported.runs)} runs of {exported.name} exported{others}. {where}")
    return 0
