"""The command `focal-compare`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from . import explain_command, report_command, run_command

EXAMPLES = """
examples:
  focal-compare run configs/comparisons/demo.yaml
      four arms on the built-in data set, into runs/demo; interrupted, it goes on where it was
  focal-compare run my_comparison.yaml --output runs/mine --jobs 8
  focal-compare report runs/demo
      the report of what is finished so far: runs/demo/report.html
  focal-compare explain SigmoidCrossEntropyLoss SigmoidFocalLoss:gamma=0.5
      loss and gradient against the logit, without training

`focal-compare run --help` says what a spec can hold.
"""

COMMANDS = {
    "run": (run_command, "train what is not finished, then report"),
    "report": (report_command, "verdicts, tables and figures of what is finished"),
    "explain": (explain_command, "draw losses and their gradients"),
}


def main(argv: list[str] | None = None) -> int:
    """
    Returns:
        0 if all is well; 1 if runs failed; 2 for a mistake in what was asked; 3 for a report of an
        unfinished comparison with `--strict`; 128 and the signal's number after a signal.
    """
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = COMMANDS[args.command][0].main
    try:
        return command(args)
    except KeyboardInterrupt:
        print("\nfocal-compare: interrupted", file=sys.stderr)
        return 130
    except (ValueError, KeyError, FileNotFoundError, ImportError, ConnectionError) as error:
        # str() of a KeyError is the representation of its message
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"focal-compare: {message}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="focal-compare",
        description="Train the arms of a comparison with several seeds, and say which differences "
        "are real.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="run | report | explain"
    )
    for name, (module, what) in COMMANDS.items():
        module.add_arguments(
            commands.add_parser(
                name, help=what, formatter_class=argparse.RawDescriptionHelpFormatter
            )
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
