"""The labeled classes of a training image, as a field of its instances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LabeledClasses:
    """
    Field of the `Instances` of one image that holds the classes with which it is labeled.

    A field has one value per instance. This one has the same value for all of them, and keeps it if
    there are none.

    Args:
        classes: (L,), int64 in 0..K-1, without repetition; may be empty.
        num_instances: length of the other fields.
    """

    def __init__(self, classes: Tensor, num_instances: int) -> None:
        self.classes = classes
        self._num_instances = num_instances

    def __len__(self) -> int:
        return self._num_instances

    def __getitem__(self, item: Any) -> LabeledClasses:
        kept = torch.arange(len(self), device=self.classes.device)[item]
        return LabeledClasses(self.classes, len(kept))

    def to(self, *args: Any, **kwargs: Any) -> LabeledClasses:
        """Return the field on another device."""
        return LabeledClasses(self.classes.to(*args, **kwargs), len(self))
