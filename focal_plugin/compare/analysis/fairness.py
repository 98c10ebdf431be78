"""Differences between arms other than the loss: their configs and their initial state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from ..runs.start import Start

ABSENT = "(no such key)"

# Keys without an effect on the weights. A run of an older version has no names of classes
NOT_COMPARED = {"OUTPUT_DIR", "MODEL.FOCAL.CLASS_NAMES"}

# Prefixes of the keys that a comparison of losses may change: the loss itself, the assignment, the
# selection and the weights of anchors or RoIs, the normalizer, the balance and the weight, and the
# initial prediction. Any other key changes the model, the data or the schedule.
LOSS_KEYS = (
    "MODEL.FOCAL.CLS_LOSS.",
    "MODEL.FOCAL.BOX_LOSS.",
    "MODEL.FOCAL.BAG_LOSS.",
    "MODEL.FOCAL.BALANCE.",
    "MODEL.FOCAL.ASSIGNER.",
    "MODEL.FOCAL.REWEIGHT.",
    "MODEL.FOCAL.CARL.",
    "MODEL.FOCAL.MINING.",
    "MODEL.FOCAL.NORMALIZER.",
    "MODEL.FOCAL.ANCHOR_LABELS.",
    "MODEL.FOCAL.RPN.",
    "MODEL.FOCAL.ROI_HEADS.",
    "MODEL.RETINANET.FOCAL_LOSS_",
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA",
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE",
    "MODEL.RETINANET.BBOX_REG_WEIGHTS",
    "MODEL.RETINANET.IOU_",
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
# Keys with these prefixes that change a layer of the model
LAYER_KEYS = ("MODEL.FOCAL.RPN.NORM",)


@dataclass(frozen=True)
class Difference:
    """
    Config key in which arms differ.

    Attributes:
        values: arm -> value; :data:`ABSENT` if its config has no such key.
        is_loss: True if a comparison of losses may change the key. Otherwise the key may be the
            cause of a difference.
    """

    key: str
    values: dict[str, Any]
    is_loss: bool


def config_differences(configs: Mapping[str, CfgNode]) -> list[Difference]:
    """
    Return every key in which two arms differ, except :data:`NOT_COMPARED`.

    Args:
        configs: arm -> config. A tuple equals a list, because Detectron2 saves tuples as lists.

    Returns:
        Differences, sorted by key; [] for a single arm.
    """
    flat = {arm: dict(_leaves(cfg)) for arm, cfg in configs.items()}
    differences = []
    for key in sorted({key for leaves in flat.values() for key in leaves} - NOT_COMPARED):
        values = {arm: leaves.get(key, ABSENT) for arm, leaves in flat.items()}
        first, *others = values.values()
        if any(value != first for value in others):
            differences.append(Difference(key, values, is_loss_key(key)))
    return differences


def is_loss_key(key: str) -> bool:
    """Return True if a comparison of losses may change the key, see :data:`LOSS_KEYS`."""
    return key.startswith(LOSS_KEYS) and key not in LAYER_KEYS


@dataclass(frozen=True)
class SharedStart:
    """
    Initial state that an arm and the reference share, for one seed.

    Attributes:
        equal: number of tensors of the same name and shape that are bit-equal.
        other_values: names of tensors of the same name and shape that are not.
        other_shape: names of tensors that have different shapes.
        only_arm: names of tensors that only the arm has.
        only_reference: names of tensors that only the reference has.
        batches: number of first batches that both recorded.
        first_other_batch: index of the first batch that differs, from 0; None if none differs.
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
        """True if there are tensors of the same name and shape, and all of them are equal."""
        return self.equal > 0 and not self.other_values

    @property
    def same_data(self) -> bool:
        """True if both recorded batches, and all of them are equal."""
        return self.batches > 0 and self.first_other_batch is None


def shared_start(starts: Mapping[str, Start], reference: str) -> dict[str, SharedStart]:
    """
    Compare the initial states of the runs of one seed.

    Args:
        starts: arm -> its start, for the runs that recorded one.

    Returns:
        Arm -> shared state, for each arm but the reference; {} if the run of the reference did not
        start.
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
    batches = list(zip(start.data, other.data, strict=False))  # one run may be further along
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
    """Yield (full key, value), with lists instead of tuples."""
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _with_lists(value)


def _with_lists(value: Any) -> Any:
    return [_with_lists(x) for x in value] if isinstance(value, list | tuple) else value
