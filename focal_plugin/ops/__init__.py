"""Fast implementations of the hot path: one function per operation, in C++, Triton and PyTorch."""

from .dense_loss import Terms, dense_loss, dense_loss_per_anchor
from .formula import Formula, Point, apply_formula, bin_index, power
from .formula_check import FormulaError, check_formula
from .implementations import check_impl
from .match_anchors import match_anchors
from .norm_counts import count_norms
from .recycled import empty_cache
from .softmax_loss import SoftmaxTerms, softmax_loss, softmax_loss_per_anchor

__all__ = [
    "Formula",
    "FormulaError",
    "Point",
    "SoftmaxTerms",
    "Terms",
    "apply_formula",
    "bin_index",
    "check_formula",
    "check_impl",
    "count_norms",
    "dense_loss",
    "dense_loss_per_anchor",
    "empty_cache",
    "match_anchors",
    "power",
    "softmax_loss",
    "softmax_loss_per_anchor",
]
