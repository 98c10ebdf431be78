"""Flags of the trainer that a spec may set for all of its runs."""

from __future__ import annotations

from typing import Any

from ...names import did_you_mean, shown

TRAINER_FLAGS = ("allow-outside-root", "trust-pickle", "resume-fallback")
"""
Names without dashes. Each permits what is an error otherwise, and none changes the result of a run,
so none is part of the config hash.
"""


def read_trainer_flags(flags: Any) -> tuple[str, ...]:
    """
    Return the flags of a spec, without dashes.

    Raises:
        ValueError: it is no list of names.
        KeyError: a flag does not exist, or is not for a spec.
    """
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise ValueError(f"trainer_flags must be a list of names, got {shown(flags)}")
    names = [flag.removeprefix("--") for flag in flags]
    for name in names:
        if name not in TRAINER_FLAGS:
            hint = did_you_mean(name, TRAINER_FLAGS) or f"; known: {', '.join(TRAINER_FLAGS)}"
            raise KeyError(f"no trainer flag of a spec is named {shown(name)}{hint}")
    return tuple(dict.fromkeys(names))
