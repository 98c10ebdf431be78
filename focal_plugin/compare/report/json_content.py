"""Content of `report.json`: the numbers of a summary, with their sentences."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from ..analysis.summary import Summary
from . import sentences
from .balance_section import balance_sentences
from .headline import headlines

ONLY_TRAINED = (
    *("iterations", "runs", "red", "problems", "best", "tuning", "test_sets"),
    *("curves", "costs", "losses", "balances", "fairness"),
)
"""Parts of a summary that only runs have."""


def json_content(summary: Summary) -> dict[str, Any]:
    """
    Return a summary for JSON.

    JSON has no NaN and no infinity, so None takes their place. Problems, flaws and the data that
    only sentences are made of are replaced by the sentences.
    """
    content = asdict(summary)
    content["headlines"] = headlines(summary)
    reference = summary.reference
    for standing in filter(None, (summary.equal, summary.best)):
        found = content["equal" if standing is summary.equal else "best"]["verdicts"]
        texts = sentences.standing_sentences(standing, reference)
        for verdict, entry, text in zip(standing.verdicts, found, texts, strict=True):
            flaw = verdict.flaw
            entry["flaw"] = None if flaw is None else sentences.flaw_text(flaw, reference)
            entry["sentence"] = text
    for arm, start in summary.fairness.starts.items():
        entry = content["fairness"]["starts"][arm]
        del entry["example"]
        entry["sentences"] = sentences.start_sentences(start.example)
    del content["fairness"]["configured"]
    content["fairness"]["sentences"] = sentences.fairness_sentences(summary)
    content["balances"]["sentences"] = balance_sentences(summary)
    content["provenance"]["sentences"] = sentences.provenance_sentences(summary.provenance)
    content["problems"] = sentences.problem_sentences(summary.problems, reference)
    for part, problems in (
        ("detections", summary.detections.problems),
        ("losses", summary.losses.problems),
    ):
        content[part]["problems"] = sentences.problem_sentences(problems, reference)
    texts = sentences.recommendation_sentences(summary)
    for entry, text in zip(content["recommendations"], texts, strict=True):
        entry["sentence"] = text
    for part in ONLY_TRAINED if not summary.trained else ("files",):
        del content[part]
    return strict(content)


def strict(content: Any) -> Any:
    """Return content without NaN and infinity, which JSON does not have."""
    if isinstance(content, dict):
        return {str(key): strict(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [strict(value) for value in content]
    if isinstance(content, float | np.floating) and not math.isfinite(content):
        return None
    return content
