"""Imbalance of a dataset, as the anchors, matcher and losses of a config see it."""

from .audit import Audit, audit_config
from .sentence import Sentence

__all__ = ["Audit", "Sentence", "audit_config"]
