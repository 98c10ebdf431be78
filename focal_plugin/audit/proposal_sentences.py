"""Sentences about a proposal of anchors."""

from __future__ import annotations

from typing import Any

from ..pages.text import plain
from .proposal_yaml import WITHOUT_PROPOSAL
from .sentence import Sentence
from .sentences import percent


def proposal_sentences(facts: dict[str, Any]) -> list[Sentence]:
    """
    Return the sentence about a proposal.

    Args:
        facts: result of :func:`~focal_plugin.audit.proposal.propose_anchors`.
    """
    if facts["status"] != "proposed":
        return [Sentence("green", "proposal", WITHOUT_PROPOSAL[facts["status"]])]
    rows = [row for row in facts["per_class"] if row["before"] is not None]
    worst = min(rows, key=lambda row: row["before"])
    text = (
        f"Other anchors reach {percent(worst['after'])} of {plain(worst['name'])} instead of "
        f"{percent(worst['before'])}{_input(facts)}."
    )
    return [Sentence("yellow", "proposal", f"{text} See the proposal.")]


def _input(facts: dict[str, Any]) -> str:
    before, after = facts["before"]["short"], facts["after"]["short"]
    if before == after:
        return f" at {after} px" if after else ""
    return f", at {after} px instead of {before} px and {facts['cost']:.3g} times the pixels"
