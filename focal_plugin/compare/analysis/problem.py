"""Problems that keep a part of the analysis from being complete, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class ProblemKind(Enum):
    """Kinds of problems; the comments say what the fields of :class:`Problem` hold."""

    FILE_DAMAGED = auto()  # names: one run; detail: the error
    AUDIT_DAMAGED = auto()  # detail: the error
    NO_RUN_DONE = auto()
    NO_DATA_RECORDED = auto()
    GROUND_TRUTH_MISSING = auto()  # detail: the file
    GROUND_TRUTH_CHANGED = auto()  # detail: the file
    GROUND_TRUTH_BROKEN = auto()  # detail: the error
    IMAGES_MISSING = auto()  # detail: the folder
    FEDERATED = auto()  # detail: the ground truth
    OTHER_DATA = auto()  # names: runs
    DETECTIONS_BROKEN = auto()  # names: one run; detail: the error
    SNAPSHOT_BROKEN = auto()  # names: one run; detail: the error
    OTHER_ANCHORS = auto()  # names: arms; detail: the part of the detector


DAMAGE = (
    ProblemKind.FILE_DAMAGED,
    ProblemKind.AUDIT_DAMAGED,
    ProblemKind.GROUND_TRUTH_BROKEN,
    ProblemKind.DETECTIONS_BROKEN,
    ProblemKind.SNAPSHOT_BROKEN,
)
"""Kinds of a file that cannot be read."""


@dataclass(frozen=True)
class Problem:
    """
    One problem.

    Attributes:
        names: runs or arms that have the problem.
        detail: file, part of the detector or error message.
    """

    kind: ProblemKind
    names: tuple[str, ...] = ()
    detail: str = ""
