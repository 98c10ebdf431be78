"""
Keys of a config that are set, but that no part of a run reads.

The reads are recorded while the trainer is built, so no list of keys per component is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode

from ..config import get_cfg

logger = logging.getLogger(__name__)

READ_LATER = (
    "VERSION",
    "CUDNN_BENCHMARK",
    "FLOAT32_PRECISION",  # of Detectron2 since August 2024
    "GLOBAL",
    "DATASETS.TEST",
    "DATASETS.PROPOSAL_FILES_TEST",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
    "MODEL.WEIGHTS",
    *(f"MODEL.FOCAL.{stage}CLS_LOSS.CLASS_ALPHA_POWER" for stage in ("", "RPN.", "ROI_HEADS.")),
    "SOLVER.CLIP_GRADIENTS",
    "SOLVER.REFERENCE_WORLD_SIZE",
    "TEST.AUG.FLIP",
    "TEST.EXPECTED_RESULTS",
    "TEST.KEYPOINT_OKS_SIGMAS",
)
"""Keys and nodes that are read before the trainer is built, or after."""

SWITCHED = ("MODEL.ROI_MASK_HEAD", "MODEL.ROI_KEYPOINT_HEAD")
"""Nodes that bases set for the detectors that switch them on, as Detectron2's own bases do."""


class _Reads(set[str]):
    """Set that copies of a config share."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Reads:
        return self


class RecordingCfgNode(CfgNode):
    """Config node that records the full keys that are read from it and from its copies."""

    @classmethod
    def of(cls, cfg: CfgNode) -> RecordingCfgNode:
        """Return a copy of a config that records its reads."""
        node = cls._of(cfg, "", _Reads())
        if cfg.is_frozen():
            node.freeze()
        return node

    @classmethod
    def _of(cls, cfg: Mapping[str, Any], prefix: str, reads: _Reads) -> RecordingCfgNode:
        node = cls()
        vars(node).update(prefix=prefix, reads=reads)
        for name, value in cfg.items():
            full = f"{prefix}{name}."
            node[name] = cls._of(value, full, reads) if isinstance(value, CfgNode) else value
        return node

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if "reads" in vars(self) and not isinstance(value, CfgNode):
            vars(self)["reads"].add(vars(self)["prefix"] + name)
        return value

    @property
    def reads(self) -> set[str]:
        """Full keys that were read so far."""
        reads: set[str] = vars(self)["reads"]
        return reads

    @property
    def unread(self) -> dict[str, Any]:
        """Full key -> value of each key that differs from its default and was not read."""
        defaults = dict(leaves(get_cfg()))
        return {
            key: value
            for key, value in leaves(self)
            if key not in self.reads
            and value != defaults.get(key)
            and not f"{key}.".startswith(tuple(f"{x}." for x in (*READ_LATER, *SWITCHED)))
        }


def warn_of_unread(cfg: RecordingCfgNode) -> None:
    """Log the keys that are set and have no effect, in one line."""
    if unread := cfg.unread:
        listed = ", ".join(f"{key} = {value!r}" for key, value in unread.items())
        logger.warning(f"Keys that have no effect in this run: {listed}")


def leaves(cfg: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full key and the value of each key that is no node."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
