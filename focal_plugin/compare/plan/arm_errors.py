"""Errors of the arms of a spec, collected so that one reading names every faulty arm."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from focal_plugin_commands import message_of

NAMED = 20
"""Most arms that a line names."""

PACKAGE = Path(__file__).parents[2]


class ArmsError(ValueError):
    """Error of one or more arms; the message has one line for each cause."""


@contextmanager
def each_arm() -> Iterator[Callable[[str], AbstractContextManager[None]]]:
    """
    Provide a context for each arm that collects its error, and raise all of them at the end.

    Raises:
        ArmsError: there was an error.
    """
    errors: dict[str, list[str]] = {}
    arms = set()

    @contextmanager
    def of_arm(name: str) -> Iterator[None]:
        arms.add(name)
        try:
            yield
        except Exception as error:
            errors.setdefault(in_words(error), []).append(name)

    yield of_arm
    if not errors:
        return
    lines = [f"{_listed(names, len(arms))}: {message}" for message, names in errors.items()]
    if len(lines) > 1:
        faulty = len({name for names in errors.values() for name in names})
        lines = [f"{faulty} of {len(arms)} arms cannot run:", *lines]
    raise ArmsError("\n  ".join(lines))


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Prefix errors with a place."""
    try:
        yield
    except KeyError as error:
        raise KeyError(f"{place}: {error.args[0]}") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{place}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def in_words(error: Exception) -> str:
    """Return the message of an error; with its type and place if it is not one of this package."""
    message = message_of(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    is_ours = Path(place.filename).is_relative_to(PACKAGE) or _package(error) == PACKAGE.name
    if is_ours or isinstance(error, OSError):
        return message.replace("\n", "\n    ")
    file = Path(*Path(place.filename).parts[-3:])
    message = " ".join(message.split()) or f"`{place.line}`"
    return f"{type(error).__name__}: {message} (in {file}, line {place.lineno})"


def _package(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


def _listed(names: list[str], arms: int) -> str:
    if len(names) == arms > 1:
        return f"all {arms} arms"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"arm{'s' if len(names) > 1 else ''} {', '.join(map(repr, names[:NAMED]))}{more}"
