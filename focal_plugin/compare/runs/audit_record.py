"""Audit of a comparison, which `focal-compare run` writes before it trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...json_file import read_object
from ..plan.comparison import Comparison

AUDIT_FILE = "audit.json"
"""Audit of the config of the reference arm, a JSON object."""


@dataclass(frozen=True)
class AuditSentence:
    """One sentence; see :class:`focal_plugin.audit.Sentence`."""

    severity: str
    topic: str
    text: str


@dataclass(frozen=True)
class AuditRecord:
    """
    Content of `audit.json` that a report shows.

    Attributes:
        config_hash: hash of the first run of the reference arm that was audited.
    """

    sentences: tuple[AuditSentence, ...]
    config_hash: str

    @property
    def red(self) -> tuple[str, ...]:
        """Sentences about what no training mends."""
        return tuple(each.text for each in self.sentences if each.severity == "red")

    @classmethod
    def read(cls, folder: Path, comparison: Comparison) -> AuditRecord | None:
        """
        Read the audit of a comparison; None if there is none, or if its config has changed since.

        Raises:
            DamagedFileError: the file cannot be read, or holds no audit.
        """
        found = read_object(cls, folder / AUDIT_FILE)
        return found if found and found.config_hash == audited_hash(comparison) else None


def audited_hash(comparison: Comparison) -> str:
    """Return the config hash of the first run of the reference arm."""
    return next(run.config_hash for run in comparison.runs if run.arm == comparison.reference)
