"""Report of a comparison on the terminal: the verdicts, and the runs that are not done."""

from __future__ import annotations

from ...pages.text import count_text, plain
from ..analysis.problem import DAMAGE
from ..analysis.summary import Summary
from .headline import headlines
from .once import contents_once
from .sections import contents
from .sentences import problem_sentences, reference_note
from .tables import aligned


def terminal_report(summary: Summary) -> str:
    """Return the audit, the answer, the verdicts with their sentences, and unfinished runs."""
    red = [f"  {plain(text)}" for text in summary.red]
    parts = ["\n".join(["Before training, the audit says:", *red])] if red else []
    parts += ["\n".join(headlines(summary)), reference_note(summary)]
    for content in contents_once(contents(summary)):
        if content.section.standing is not None:
            parts += [f"{content.title}:"] if content.title else []
            parts += [aligned(t, t.rows, t.header, "simple") for t in content.tables]
            parts += ["\n".join(map(plain, content.sentences))]
    states = summary.states
    if not summary.complete:
        left = len(summary.runs) - states["done"]
        parts.append(
            f"{left} of {count_text(len(summary.runs), 'run')} not done: "
            f"{states['failed']} failed, "
            f"{states['running']} running, {states['pending']} to come."
        )
    parts += [
        f"failed: {plain(run.arm)} seed {run.seed}: {plain(run.reason or 'no reason recorded')}"
        for run in summary.runs
        if run.state == "failed"
    ]
    problems = (*summary.problems, *summary.detections.problems, *summary.losses.problems)
    damaged = [problem for problem in problems if problem.kind in DAMAGE]
    parts += map(plain, problem_sentences(damaged, summary.reference))
    return "\n\n".join(part for part in parts if part)
