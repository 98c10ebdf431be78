"""
Quotas: how many anchors are kept, of those that nothing suppresses.

Shape shorthand:
    C: anchors that compete with each other, of an image or of the batch
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .selection import highest, quota_of_negatives, with_hard_negatives


class Quota(Protocol):
    """Rule that keeps some candidates, and tells when further ones cannot change the result."""

    @property
    def num_keep(self) -> int:
        """Maximum number of anchors to keep."""

    def is_filled(self, num_pos: int, num_neg: int, *, positives_left: int) -> bool:
        """
        Return True if no further candidate would be kept, where those of highest loss come first.

        Args:
            num_pos, num_neg: number of positives and negatives among the candidates so far.
            positives_left: number of positives that may still become candidates.
        """

    def fill(self, loss: Tensor, candidates: Tensor, positives: Tensor) -> Tensor:
        """
        Select the anchors to keep.

        Args:
            loss: (C,), any floating dtype; compared in float32.
            candidates: bool (C,), the anchors to choose from.
            positives: bool (C,), the anchors with an object.

        Returns:
            bool (C,).
        """


@dataclass(frozen=True)
class TotalQuota:
    """
    Quota of positives and negatives together.

    Attributes:
        num_keep: maximum number of anchors to keep, >= 1.
    """

    num_keep: int

    def is_filled(self, num_pos: int, num_neg: int, *, positives_left: int) -> bool:
        return num_pos + num_neg >= self.num_keep

    def fill(self, loss: Tensor, candidates: Tensor, positives: Tensor) -> Tensor:
        return highest(loss, candidates, self.num_keep)


@dataclass(frozen=True)
class RatioQuota:
    """
    Quota of positives, and a quota of negatives in a ratio to the positives kept.

    Attributes:
        num_keep: maximum number of anchors to keep, >= 1.
        neg_pos_ratio: negatives per positive, > 0.
        empty_image_negatives: number of negatives if there is no positive, >= 0.
    """

    num_keep: int
    neg_pos_ratio: float
    empty_image_negatives: int

    @property
    def max_pos(self) -> int:
        """Maximum number of positives to keep."""
        return max(1, int(self.num_keep / (1 + self.neg_pos_ratio)))

    def is_filled(self, num_pos: int, num_neg: int, *, positives_left: int) -> bool:
        num_pos = min(num_pos, self.max_pos)
        quota = quota_of_negatives(
            num_pos,
            neg_pos_ratio=self.neg_pos_ratio,
            empty_image_negatives=self.empty_image_negatives,
            num_keep=self.num_keep,
        )
        return (num_pos == self.max_pos or not positives_left) and num_neg >= quota

    def fill(self, loss: Tensor, candidates: Tensor, positives: Tensor) -> Tensor:
        return with_hard_negatives(
            loss,
            highest(loss, candidates & positives, self.max_pos),
            candidates & ~positives,
            neg_pos_ratio=self.neg_pos_ratio,
            empty_image_negatives=self.empty_image_negatives,
            num_keep=self.num_keep,
        )
