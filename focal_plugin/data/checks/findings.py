"""Findings of the dataset checks, and their messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_json
from ..coco_ids import Id, is_id
from .rules import RULES, Severity

LISTED = 20
"""Number of findings kept per rule; further ones are only counted."""

SHOWN = 3
"""Number of findings per rule that a message shows."""


class DataError(ValueError):
    """Error in a dataset that would spoil or end a training; the message says where and why."""

    exit_code = 1
    """Exit code of a command that this error ends."""


@dataclass(frozen=True)
class Finding:
    """
    One finding about a dataset.

    Attributes:
        rule: a key of :data:`focal_plugin.data.checks.rules.RULES`.
        severity: "error", "warning" or "note".
        message: the finding in one line.
        image_id: None if the finding concerns no image, or the image has no id.
        annotation_id: None if the finding concerns no annotation, or the annotation has no id.
    """

    rule: str
    severity: Severity
    message: str
    image_id: Id | None = None
    annotation_id: Id | None = None


def printable(text: str) -> str:
    """Escape characters that control a terminal or that it cannot encode."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


@dataclass(frozen=True)
class Report:
    """
    Findings in one dataset.

    Attributes:
        file: the annotation file; None if the dataset has none.
        image_root: None if the image files were not checked.
        facts: the counts and the classes; see :mod:`focal_plugin.data.checks.facts`.
        findings: the first findings of each rule.
        counts: exact number of findings per rule.
        name: name of the registered dataset; empty for a file that is not registered.
    """

    file: Path | None
    image_root: Path | None
    facts: dict[str, Any]
    findings: tuple[Finding, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    name: str = ""

    def severity_of(self, rule: str) -> Severity:
        """Return the severity of a rule that has findings here, with any override applied."""
        return next(finding.severity for finding in self.findings if finding.rule == rule)

    def num(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(n for rule, n in self.counts.items() if self.severity_of(rule) == severity)

    def is_bad(self, *, strict: bool = False) -> bool:
        """Return True if there is an error or, if ``strict``, a warning."""
        return self.num("error") > 0 or (strict and self.num("warning") > 0)

    def raise_if_bad(self, *, strict: bool = False) -> None:
        """
        Raise an error if the report is bad.

        Raises:
            DataError: there is an error or, if ``strict``, a warning.
        """
        raise_if_any_is_bad([self], strict=strict)

    def with_severity(self, severities: Mapping[str, Severity]) -> Report:
        """Return a copy in which ``severities`` override those of the rules."""
        findings = (
            replace(finding, severity=severities.get(finding.rule, finding.severity))
            for finding in self.findings
        )
        return replace(self, findings=tuple(findings))

    def with_finding(self, rule: str, message: str) -> Report:
        """Return a copy with one more finding about the dataset as a whole."""
        finding = Finding(rule, RULES[rule].severity, printable(message))
        counts = {**self.counts, rule: self.counts.get(rule, 0) + 1}
        return replace(self, findings=(*self.findings, finding), counts=counts)

    def with_findings(self, found: Findings) -> Report:
        """Return a copy with further findings, whose rules must not occur here."""
        counts = {**self.counts, **found.counts}
        return replace(self, findings=(*self.findings, *found.listed), counts=counts)

    def without(self, rules: Iterable[str]) -> Report:
        """Return a copy without the findings of some rules."""
        left_out = set(rules)
        findings = tuple(x for x in self.findings if x.rule not in left_out)
        counts = {rule: n for rule, n in self.counts.items() if rule not in left_out}
        return replace(self, findings=findings, counts=counts)

    def title(self) -> str:
        """Return the name of the dataset, or of its file."""
        return self.name or str(self.file)

    def summary(self) -> str:
        """Return one line with the number of images, objects, errors and warnings."""
        facts = self.facts
        crowds = facts.get("crowds") or 0
        sizes = f"{facts.get('images') or 0} images"
        if facts.get("annotations") is not None:
            sizes += f", {facts['annotations'] - crowds} objects"
        if crowds:
            sizes += f", {_plural(crowds, 'crowd')}"
        found = (_plural(self.num(severity), severity) for severity in ("error", "warning"))
        return f"{self.title()}: {sizes}, {', '.join(found)}"

    def lines(self, severities: Iterable[Severity], *, shown: int = SHOWN) -> list[str]:
        """
        Return lines for each rule: its meaning, its count, its first findings and the remedy.

        Args:
            severities: severities of the rules to include.
            shown: number of findings per rule.
        """
        wanted = set(severities)
        rules = [rule for rule in self.counts if self.severity_of(rule) in wanted]
        return [line for rule in rules for line in self._lines_of(rule, shown)]

    def _lines_of(self, rule: str, shown: int) -> list[str]:
        first = [f"  {f.message}" for f in self.findings if f.rule == rule][:shown]
        more = self.counts[rule] - len(first)
        return [
            f"{self.severity_of(rule)} {rule} ({self.counts[rule]}): {RULES[rule].what}",
            *first,
            *([f"  and {more} more"] if more else []),
            f"  -> {RULES[rule].remedy}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as a dict for strict JSON."""
        return {
            "name": self.name,
            "file": None if self.file is None else str(self.file),
            "image_root": None if self.image_root is None else str(self.image_root),
            "facts": self.facts,
            "errors": self.num("error"),
            "warnings": self.num("warning"),
            "counts": dict(self.counts),
            "findings": [vars(finding) for finding in self.findings],
        }


class Findings:
    """Collection that counts all findings and keeps the first :data:`LISTED` of each rule."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.listed: list[Finding] = []

    def add(
        self, rule: str, message: str, *, image_id: Any = None, annotation_id: Any = None
    ) -> None:
        """Add one finding; ids that are not valid in a COCO file are dropped."""
        self.counts[rule] += 1
        if self.counts[rule] <= LISTED:
            ids = (value if is_id(value) else None for value in (image_id, annotation_id))
            self.listed.append(Finding(rule, RULES[rule].severity, printable(message), *ids))

    def add_each(
        self,
        rule: str,
        positions: Sequence[int] | np.ndarray,
        describe: Callable[[int], dict[str, Any]],
    ) -> None:
        """
        Add one finding for each position.

        Args:
            describe: maps a position to the arguments of :meth:`add`. It is called only for
                findings that are kept.
        """
        first = positions[:LISTED]
        for position in first:
            self.add(rule, **describe(int(position)))
        if len(positions) > LISTED:
            self.counts[rule] += len(positions) - LISTED

    def escalate(self, rule: str) -> None:
        """Turn the findings of a rule into errors."""
        self.listed = [
            replace(finding, severity="error") if finding.rule == rule else finding
            for finding in self.listed
        ]

    def extend(self, others: Findings) -> None:
        """Add all findings of another collection, whose rules must not occur in this one."""
        self.counts.update(others.counts)
        self.listed.extend(others.listed)

    def report(
        self,
        facts: dict[str, Any],
        *,
        file: Path | None = None,
        image_root: Path | None = None,
    ) -> Report:
        """Return the findings so far as a report."""
        return Report(file, image_root, facts, tuple(self.listed), dict(self.counts))


def raise_if_any_is_bad(reports: Iterable[Report], *, strict: bool = False) -> None:
    """
    Raise an error if one of the reports is bad.

    Raises:
        DataError: a report has an error or, if ``strict``, a warning. The message lists those of
            all reports.
    """
    severities: tuple[Severity, ...] = ("error", "warning") if strict else ("error",)
    bad = [report for report in reports if report.is_bad(strict=strict)]
    if bad:
        raise DataError("\n".join(_complaint(report, severities) for report in bad))


def _complaint(report: Report, severities: tuple[Severity, ...]) -> str:
    where = f" ({report.file})" if report.name and report.file is not None else ""
    num = sum(map(report.num, severities))
    found = _plural(num, "error") if len(severities) == 1 else f"{num} errors and warnings"
    lines = (f"  {line}" for line in report.lines(severities))
    return "\n".join([f"{report.title()}{where}: {found} in the data", *lines])


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def write_reports(file: Path, reports: Sequence[Report]) -> None:
    """
    Write all reports as one strict JSON file.

    Raises:
        OSError: the file cannot be written.
    """
    total = {
        "errors": sum(report.num("error") for report in reports),
        "warnings": sum(report.num("warning") for report in reports),
        "datasets": [report.to_json() for report in reports],
    }
    write_json(file, total)
