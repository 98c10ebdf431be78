"""HOW FAST: what the hot path computes, behind one function an operation, by several means."""

from .dense_loss import Terms, dense_loss, dense_loss_per_anchor
from .formula import Formula, Point, apply_formula
from .implementations import check_impl
from .match_anchors import match_anchors

__all__ = [
    "Formula",
    "Point",
    "Terms",
    "apply_formula",
    "check_impl",
    "dense_loss",
    "dense_loss_per_anchor",
    "match_anchors",
]
