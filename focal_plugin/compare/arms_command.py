"""Command `focal-compare arms`: list the named arms, or show some of them."""

from __future__ import annotations

import argparse
from collections import Counter

from .. import arms


def main(args: argparse.Namespace) -> int:
    """
    Print the arms.

    Returns:
        0.

    Raises:
        KeyError: there is no arm of a name, or both families have it.
    """
    if args.names:
        print("\n\n".join(_details(arms.load(name, args.family)) for name in args.names))
    else:
        every = (*arms.FAMILIES, arms.DATA)
        for family in every if args.family is None else (args.family,):
            print(_listing(family))
    return 0


def _listing(family: str) -> str:
    """Return one line per arm, below the heading of its group; the largest group comes first."""
    reference = arms.FAMILIES.get(family, "the base, of any detector")
    found = list(arms.load_all(family))
    width = max(len(arm.name) for arm in found)
    groups = Counter(arm.group for arm in found)
    lines = [f"{family} (reference: {reference})"]
    for group, _ in groups.most_common():
        lines += ["", f"  {group}"]
        lines += [f"    {arm.name:<{width}}  {arm.about}" for arm in found if arm.group == group]
    return "\n".join([*lines, ""])


def _details(arm: arms.Arm) -> str:
    lines = [f"{arm.family}/{arm.name}: {arm.about}"]
    if arm.paper:
        lines.append(f"  paper: {arm.paper}")
    if arm.family == arms.DATA:
        lines.append("  compared with: the base")
    if arm.reference is not None:
        lines.append(f"  compared with: {arm.reference}")
    lines += [f"  requires {', '.join(names)} in {key}" for key, names in arm.requires.items()]
    lines += [f"  {key} {value!r}" for key, value in arm.all_changes.items()]
    return "\n".join(lines)
