"""HOW FAST: what the hot path computes, behind one function an operation, by several means."""

from .dense_loss import Terms, one_vs_rest_loss, one_vs_rest_loss_per_anchor
from .formula import Formula, Point, apply_formula
from .implementations import check_impl
from .matching import match_anchors

__all__ = [
    "Formula",
    "Point",
    "Terms",
    "apply_formula",
    "check_impl",
    "match_anchors",
    "one_vs_rest_loss",
    "one_vs_rest_loss_per_anchor",
]
