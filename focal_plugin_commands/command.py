"""What the commands share: a table of subcommands, their parser, and errors as one sentence."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

MAX_LINE = 1000
"""Characters of a line of an error."""


class Command(NamedTuple):
    """
    Subcommand.

    Attributes:
        help: one line of the list of commands.
        add_arguments: function that adds its arguments to a parser.
        module: module whose function `main` takes the parsed arguments and returns the exit code.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    module: str


class _Version(argparse.Action):
    """Option that prints the installed version and exits."""

    def __init__(self, option_strings: list[str], dest: str) -> None:
        super().__init__(
            option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version"
        )

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"{parser.prog} {version('focal_plugin')}")
        parser.exit()


def build_parser(
    prog: str, description: str, commands: Mapping[str, Command], *, epilog: str
) -> argparse.ArgumentParser:
    """Return the parser of a program with subcommands."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog, description=description, epilog=epilog, formatter_class=raw
    )
    parser.add_argument("--version", action=_Version)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar=" | ".join(commands))
    for name, command in commands.items():
        command.add_arguments(subparsers.add_parser(name, help=command.help, formatter_class=raw))
    return parser


def run_command(
    parser: argparse.ArgumentParser, commands: Mapping[str, Command], argv: list[str] | None
) -> int:
    """
    Run the subcommand that the arguments name.

    Returns:
        its exit code; 130 after Ctrl-C. After an error, the ``exit_code`` of the exception, or 2
        if it has none.
    """
    args = parser.parse_args(argv)
    main: Callable[[argparse.Namespace], int]
    try:
        main = importlib.import_module(commands[args.command].module).main
        return main(args)
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, KeyError, AssertionError, OSError, ImportError) as error:
        print(f"{parser.prog}: {message_of(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 2)


def message_of(error: BaseException) -> str:
    """Return the message of an error, whose lines may hold a name of any length, in short lines."""
    # the text of a KeyError is a quoted string otherwise
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return "\n".join(shortened(line, MAX_LINE) for line in str(message).split("\n"))


def shortened(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters; a longer one loses its middle."""
    half = (width - 3) // 2
    return text if len(text) <= width else f"{text[:half]}...{text[-half:]}"


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--import`, which all commands that build a config have."""
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="import a module of your own that registers components or datasets, such as "
        "my_package.losses or my_losses.py; can be repeated",
    )
