"""Command line of `focal-compare`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from . import explain_command, report_command, run_command

EXAMPLES = """
examples:
  focal-compare run configs/comparisons/demo.yaml
      train four arms on the built-in data set, into runs/demo; run it again to resume
  focal-compare run my_comparison.yaml --output runs/mine --jobs 8
  focal-compare report runs/demo
      report the runs that are done so far: runs/demo/report.html
  focal-compare explain SigmoidCrossEntropyLoss SigmoidFocalLoss:gamma=0.5
      draw loss and gradient against the logit, without training

`focal-compare run --help` describes the spec.
"""

COMMANDS = {
    "run": (run_command, "train the runs that are not done, then report"),
    "report": (report_command, "write verdicts, tables and figures of the runs that are done"),
    "explain": (explain_command, "draw losses and their gradients"),
}


def main(argv: list[str] | None = None) -> int:
    """
    Run a command of `focal-compare`.

    Returns:
        0 on success; 1 if a run is not done; 2 for an error in the input; 3 for a report of an
        unfinished comparison with `--strict`; 128 plus the signal number after a signal.
    """
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = COMMANDS[args.command][0].main
    try:
        return command(args)
    except KeyboardInterrupt:
        print("\nfocal-compare: interrupted", file=sys.stderr)
        return 130
    except (ValueError, KeyError, FileNotFoundError, ImportError, ConnectionError) as error:
        # str() of a KeyError quotes its message
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"focal-compare: {message}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="focal-compare",
        description="Train the arms of a comparison with several seeds, and report which "
        "differences are significant.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="run | report | explain"
    )
    for name, (module, help_text) in COMMANDS.items():
        module.add_arguments(
            commands.add_parser(
                name, help=help_text, formatter_class=argparse.RawDescriptionHelpFormatter
            )
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
