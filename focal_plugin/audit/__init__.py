"""What the imbalance of a dataset is, as the anchors, matcher and losses of a config see it."""

from .audit import Audit, audit_config
from .sentence import Sentence

__all__ = ["Audit", "Sentence", "audit_config"]
