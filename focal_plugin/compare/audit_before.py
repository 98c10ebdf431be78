"""Audit of a comparison before it trains: the faults of data and anchors that no arm mends."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from ..audit import audit_config
from ..config import resolve_device
from ..data import parse_dataset_argument, registered
from ..files import write_json
from ..json_file import DamagedFileError
from .plan.arm_errors import in_words
from .plan.spec import Plan
from .runs.audit_record import AUDIT_FILE, AuditRecord, audited_hash


def audit_before(plan: Plan, output: Path) -> str:
    """
    Write `audit.json`, the audit of the config of the reference arm, unless it is there already.

    Returns:
        Its red sentences, one a line, or a line on why there is no audit; "" without red sentences.
    """
    comparison = plan.comparison
    with contextlib.suppress(DamagedFileError):
        if known := AuditRecord.read(output, comparison):
            return _text(known)
    run = next(run for run in comparison.runs if run.arm == comparison.reference)
    cfg = plan.configs[comparison.reference].clone()
    resolve_device(cfg)
    try:
        with registered(map(parse_dataset_argument, run.datasets)):
            audit = audit_config(cfg, test=cfg.DATASETS.TEST, proposal=False)
    except Exception as error:  # a detector without anchors, or data with a loader of its own
        return f"No audit: {in_words(error)}"
    content = {**json.loads(audit.as_json()), "config_hash": audited_hash(comparison)}
    write_json(output / AUDIT_FILE, content)
    found = AuditRecord.read(output, comparison)
    assert found is not None
    return _text(found)


def _text(audit: AuditRecord) -> str:
    if not audit.red:
        return ""
    return "\n".join(["Before training, the audit says:", *(f"  {text}" for text in audit.red)])
