"""Refusals: an error in the user's input ends the process with one sentence and exit code 2."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from focal_plugin_commands import message_of

from ..signals import INTERRUPTED

REFUSED = 2
"""Exit code of a process that refused its input."""

PACKAGE = Path(__file__).parents[1]


class CommandError(ValueError):
    """Error in a flag, for which no process has been started."""


class Refusal(SystemExit):
    """
    End of a process with exit code 2.

    Attributes:
        text: the reason, which the process that the user started prints.
    """

    def __init__(self, text: str) -> None:
        super().__init__(REFUSED)
        self.text = text


@contextmanager
def refusals_in_words(*, with_traceback: bool = False) -> Iterator[None]:
    """
    Turn each error into a :class:`Refusal`, whose text needs no traceback.

    Before the first iteration, an error is nearly always one of the input.

    Args:
        with_traceback: leave the errors as they are.
    """
    try:
        yield
    except Exception as error:
        if with_traceback:
            raise
        raise Refusal(in_words(error)) from error


@contextmanager
def endings_in_words() -> Iterator[None]:
    """
    Print why the processes of a command refused or were interrupted, once and without a traceback.

    Raises:
        SystemExit: with code 2 or 130; other errors pass.
    """
    try:
        yield
    except CommandError as error:
        print(in_words(error), file=sys.stderr)
        raise SystemExit(REFUSED) from error
    except Refusal as refusal:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # set by torchrun, whose processes all refuse
            print(refusal.text, file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("\nInterrupted; no step was lost, and the same command starts again", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def in_words(error: Exception) -> str:
    """
    Return the type and the message of an error, in one line.

    If the error does not come from this package, the line says where it was raised. Our own errors
    may list several findings, one on each line.
    """
    kind, message = type(error).__name__, message_of(error)
    places = traceback.extract_tb(error.__traceback__)
    if not places or isinstance(error, OSError) or _is_ours(places[-1].filename):
        return f"{kind}: {message}"
    last = places[-1]
    message = " ".join(message.split()) or f"`{last.line}`"
    place = Path(*Path(last.filename).parts[-3:])
    return f"{kind}: {message} (in {place}, line {last.lineno}; --traceback shows the calls)"


def _is_ours(file: str) -> bool:
    return Path(file).resolve().is_relative_to(PACKAGE)
