"""Command `focal-compare judge`: reports result files of any framework; nothing is trained."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from ..names import shown
from .analysis.judged_files import JudgedFiles, summarize_files
from .plan.comparison import PLAN_FILE
from .report.files_section import file_sentences
from .report.terminal import terminal_report
from .report.write import HTML, write_summary
from .report_command import check_replicates


def main(args: argparse.Namespace) -> int:
    """
    Write the report and print the verdicts.

    Returns:
        0.

    Raises:
        ValueError: an argument or a file is malformed. Then nothing is written.
        FileNotFoundError: a file does not exist.
    """
    check_replicates(args.replicates)
    check_output(args.output)
    arms = parse_arms(args.arms)
    judged = JudgedFiles(
        name=args.title or args.ground_truth.stem,
        ground_truth=args.ground_truth,
        arms=arms,
        reference=next(iter(arms)) if args.reference is None else args.reference,
        images=args.images,
    )
    summary = summarize_files(judged, replicates=args.replicates, told=_told)
    write_summary(summary, args.output, root=Path())
    print(terminal_report(summary))
    for sentence in file_sentences(summary):
        print(sentence, file=sys.stderr)
    print(f"\nThe report: {args.output / HTML}")
    return 0


def parse_arms(arguments: Iterable[str]) -> dict[str, tuple[Path, ...]]:
    """
    Return arm -> its files, from arguments `NAME=FILE,FILE,...`.

    Raises:
        ValueError: an argument has another form, or two have the same name.
    """
    arms: dict[str, tuple[Path, ...]] = {}
    for argument in arguments:
        name, _, files = argument.partition("=")
        name, paths = name.strip(), [file.strip() for file in files.split(",")]
        if not name or not all(paths):
            raise ValueError(f"--arm must be NAME=FILE[,FILE...], got {shown(argument)}")
        if name in arms:
            raise ValueError(
                f"--arm {shown(name)} is given twice; separate the files of an arm by commas"
            )
        arms[name] = tuple(map(Path, paths))
    return arms


def check_output(output: Path) -> None:
    """
    Check that a report of result files can be written to a folder.

    Raises:
        ValueError: it is a file, or the folder of a comparison, which has a report of its own.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file, not a folder")
    if (output / PLAN_FILE).exists():
        raise ValueError(f"--output {output} holds a comparison with a report of its own")


def _told(message: str) -> None:
    """Show progress to a person; large files take minutes."""
    if sys.stderr.isatty():
        print(message, file=sys.stderr)
