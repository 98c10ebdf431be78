"""Is it the loss that makes the difference? In what else two arms differ, and how they started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from ..runs.start import Start

ABSENT = "(no such key)"

# What the arms of a comparison of losses are meant to differ in: the loss itself, which anchors or
# RoIs it is of, what it is divided by and multiplied by, and what the model answers at first. By
# the start of a key; a key of which none is the start changes the model, the data or the schedule.
LOSS_KEYS = (
    "MODEL.FOCAL.CLS_LOSS.",
    "MODEL.FOCAL.BOX_LOSS.",
    "MODEL.FOCAL.MINING.",
    "MODEL.FOCAL.NORMALIZER.",
    "MODEL.FOCAL.ANCHOR_LABELS.",
    "MODEL.FOCAL.RPN.",
    "MODEL.FOCAL.ROI_HEADS.",
    "MODEL.RETINANET.FOCAL_LOSS_",
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA",
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE",
    "MODEL.RETINANET.PRIOR_PROB",
    "MODEL.RPN.LOSS_WEIGHT",
    "MODEL.RPN.BBOX_REG_LOSS_",
    "MODEL.RPN.SMOOTH_L1_BETA",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "MODEL.RPN.POSITIVE_FRACTION",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "MODEL.ROI_HEADS.POSITIVE_FRACTION",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_",
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE",
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS",
    "MODEL.ROI_BOX_HEAD.FED_LOSS_",
)
# Of the nodes above, what is a layer of the model
LAYER_KEYS = ("MODEL.FOCAL.RPN.NORM",)


@dataclass(frozen=True)
class Difference:
    """
    A config key in which arms differ.

    Attributes:
        values: arm -> its value; :data:`ABSENT` where its config has no such key.
        is_loss: whether arms that compare losses are meant to differ in it; if not, it may be what
            makes the difference.
    """

    key: str
    values: dict[str, Any]
    is_loss: bool


def config_differences(configs: Mapping[str, CfgNode]) -> list[Difference]:
    """
    Every key in which two arms differ, but for `OUTPUT_DIR`.

    Args:
        configs: arm -> its config; a tuple in one equals a list in another, as which Detectron2
            saves it.

    Returns:
        by key; [] for a single arm.
    """
    flat = {arm: dict(_leaves(cfg)) for arm, cfg in configs.items()}
    differences = []
    for key in sorted({key for leaves in flat.values() for key in leaves} - {"OUTPUT_DIR"}):
        values = {arm: leaves.get(key, ABSENT) for arm, leaves in flat.items()}
        first, *others = values.values()
        if any(value != first for value in others):
            differences.append(Difference(key, values, is_loss_key(key)))
    return differences


def is_loss_key(key: str) -> bool:
    """Whether arms that compare losses are meant to differ in it, by :data:`LOSS_KEYS`."""
    return key.startswith(LOSS_KEYS) and key not in LAYER_KEYS


@dataclass(frozen=True)
class SharedStart:
    """
    What an arm and the reference had in common as their training began, with one seed.

    Attributes:
        equal: how many tensors of the same name and shape are equal bit by bit.
        other_values: names of those that are not.
        other_shape: names of tensors that both have, in two shapes.
        only_arm: names of tensors that the reference has not.
        only_reference: names of tensors that the arm has not.
        batches: how many batches at the start were recorded of both.
        first_other_batch: the first of these that is not the same, from 0; None: all are.
    """

    arm: str
    reference: str
    equal: int
    other_values: tuple[str, ...]
    other_shape: tuple[str, ...]
    only_arm: tuple[str, ...]
    only_reference: tuple[str, ...]
    batches: int
    first_other_batch: int | None

    @property
    def same_weights(self) -> bool:
        """Whether the tensors that both have in one shape, of which there are some, are equal."""
        return self.equal > 0 and not self.other_values

    @property
    def same_data(self) -> bool:
        """Whether what was recorded of both, which is something, is the same."""
        return self.batches > 0 and self.first_other_batch is None


def shared_start(starts: Mapping[str, Start], reference: str) -> dict[str, SharedStart]:
    """
    Compare how the runs of one seed started.

    Args:
        starts: arm -> its start, for the runs that recorded one.

    Returns:
        arm -> what it shares with the reference, for each arm but that; {} where the reference's
        run did not start.
    """
    if reference not in starts:
        return {}
    return {
        arm: _compare(arm, start, reference, starts[reference])
        for arm, start in starts.items()
        if arm != reference
    }


def _compare(arm: str, start: Start, reference: str, other: Start) -> SharedStart:
    weights, other_weights = start.weights, other.weights
    both = [name for name in weights if name in other_weights]
    same_shape = [n for n in both if weights[n].shape == other_weights[n].shape]
    equal = [n for n in same_shape if weights[n].sha256 == other_weights[n].sha256]
    batches = list(zip(start.data, other.data, strict=False))  # one may have begun later
    return SharedStart(
        arm=arm,
        reference=reference,
        equal=len(equal),
        other_values=tuple(n for n in same_shape if n not in equal),
        other_shape=tuple(n for n in both if n not in same_shape),
        only_arm=tuple(n for n in weights if n not in other_weights),
        only_reference=tuple(n for n in other_weights if n not in weights),
        batches=len(batches),
        first_other_batch=next((i for i, (a, b) in enumerate(batches) if a != b), None),
    )


def _leaves(cfg: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(full key, value), with lists in place of tuples."""
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _with_lists(value)


def _with_lists(value: Any) -> Any:
    return [_with_lists(x) for x in value] if isinstance(value, list | tuple) else value
