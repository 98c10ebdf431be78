"""
Seesaw loss of RoI heads, with an objectness of its own.

Shape shorthand:
    ...: any leading shape, one entry per RoI
    C: number of classes, K elsewhere
    V: RoIs with an object
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import IllegalOptionError, check_choice, check_count, check_option
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY, ClassificationLoss
from .one_vs_rest import check_inputs
from .precision import dtype_of_result
from .processes import sum_over_processes


def seesaw_loss(
    logits: Tensor,
    labels: Tensor,
    counts: Tensor,
    *,
    p: float = 0.8,
    q: float = 2.0,
    eps: float = 1e-2,
) -> tuple[Tensor, Tensor]:
    """
    Compute the seesaw loss of the classes, and the cross entropy of an objectness.

        classes_y  = -log(exp(x_y) / sum over j of S_yj * exp(x_j)),  S_yj = M_yj * F_yj
        M_yj       = min(1, N_j / N_y)^p
        F_yj       = max(1, s_j / max(s_y, eps))^q,  s = softmax of the C classes
        objectness = cross entropy of the softmax of the last two logits

    N counts the RoIs of each class so far. M reduces the penalty of a rare class. F restores it
    where the rare class is confused with the label. S is a constant, without gradient.

    (arXiv:2008.10032 section 3.)

    Args:
        logits: (..., C+2), of the C classes, of "object" and of the background; any floating
            dtype, computed in float32, or in float64 if it is float64.
        labels: (...), integer in {-1 (ignored), 0..C-1, C (background)}.
        counts: (C+1,), RoIs of each label so far, with those of this step; at least 1 is assumed.
            The last is not used and may be absent.
        p: exponent of the counts, >= 0; 0 is off.
        q: exponent of the scores, >= 0; 0 is off.
        eps: lowest own score in F, in (0, 1].

    Returns:
        the loss of the classes, a mean over RoIs with an object, and of the objectness, a mean over
        RoIs that are not ignored. Each is a differentiable 0 if there are none.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.
    """
    rows = _rows(logits, labels, counts, *_check_options(p, q, eps))
    return (
        rows.classes.sum() / rows.is_object.sum().clamp(min=1),
        rows.objectness.sum() / rows.is_counted.sum().clamp(min=1),
    )


@CLS_LOSS_REGISTRY.register()
class SeesawLoss(ClassificationLoss):
    """
    Module of :func:`seesaw_loss` for RoI heads, which counts the RoIs of each class itself.

    The box head gets C+2 columns: the classes, "object" and the background. The probability of
    class j is softmax(classes)_j * sigmoid(x_object - x_background). The counts of a step change
    before its loss.

    Note:
        The published results divide both terms by the number of RoIs, which is the default. In the
        formulas of the paper, the class term is a mean over RoIs with an object. It is then at
        least 4 times as large, if at most a quarter of the RoIs have an object.

    Reported:
        none on COCO; Mask R-CNN R-50, LVIS v1, 2x, repeat factors: 27.6 AP
    """

    softmax = True
    decomposes = False
    stateful = True
    config_keys = {
        "num_classes": "MODEL.RETINANET.NUM_CLASSES",
        "p": "MODEL.FOCAL.CLS_LOSS.SEESAW_P",
        "q": "MODEL.FOCAL.CLS_LOSS.SEESAW_Q",
        "eps": "MODEL.FOCAL.CLS_LOSS.SEESAW_EPS",
        "reduction": "MODEL.FOCAL.CLS_LOSS.SEESAW_REDUCTION",
    }

    @configurable
    def __init__(
        self,
        *,
        num_classes: int = 80,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 1e-2,
        reduction: str = "sum",
    ) -> None:
        """
        Initialize the loss.

        Args:
            num_classes: C.
            p, q, eps: see :func:`seesaw_loss`.
            reduction: "sum": the sum of both terms over RoIs, which the detector divides; or
                "mean": the sum of the two means of :func:`seesaw_loss`.

        Raises:
            ValueError: an option is outside its legal range.
        """
        super().__init__()
        self.num_classes = check_count("num_classes", num_classes, low=1)
        self.p, self.q, self.eps = _check_options(p, q, eps)
        self.reduction = check_choice("reduction", reduction, ("sum", "mean"))
        self.own_normalizer = reduction == "mean"
        self.counts: Tensor
        self.register_buffer("counts", torch.zeros(self.num_classes + 1, dtype=torch.float64))

    def num_columns(self, num_classes: int) -> int:
        return num_classes + 2

    def probabilities(self, logits: Tensor) -> Tensor:
        objectness = logits[:, -2:].softmax(dim=1)
        classes = logits[:, :-2].softmax(dim=1)
        return torch.cat([classes * objectness[:, :1], objectness[:, 1:]], dim=1)

    def prior_biases(self, num_classes: int, prior: float) -> list[float]:
        return [0.0] * (num_classes + 1) + [math.log((1 - prior) / prior)]

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        if logits.dim() and logits.shape[-1] != len(self.counts) + 1:
            raise IllegalOptionError(
                "num_classes",
                f"({self.key_of('num_classes')}) must be {logits.shape[-1] - 2} for "
                f"{logits.shape[-1]} logits, got {self.num_classes}",
            )
        rows = _rows(logits, labels, self.counts, self.p, self.q, self.eps)
        if self.reduction == "sum":
            return (rows.classes + rows.objectness).float()
        num_objects, num_counted = rows.is_object.sum(), rows.is_counted.sum()
        classes = rows.classes / num_objects.clamp(min=1)
        return (classes + rows.objectness / num_counted.clamp(min=1)).float()

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        labels = labels.long()
        step = torch.bincount(labels[labels >= 0], minlength=len(self.counts)).to(self.counts)
        self.counts += sum_over_processes(step)

    def per_anchor_of_step(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        """Compute the loss like the base class, but with the counts of this step."""
        self.observe(logits, labels)
        return self.per_anchor(logits, labels)


class _Rows(NamedTuple):
    """Both losses of each RoI, and the RoIs that have them, all (...)."""

    classes: Tensor
    objectness: Tensor
    is_object: Tensor
    is_counted: Tensor


def _rows(logits: Tensor, labels: Tensor, counts: Tensor, p: float, q: float, eps: float) -> _Rows:
    num_classes = logits.shape[-1] - 2 if logits.dim() else 0
    check_inputs(logits, labels, num_classes=num_classes)
    if num_classes < 1:
        raise ValueError(f"logits must be (..., C+2) with C >= 1, got {tuple(logits.shape)}")
    if counts.shape not in [(num_classes,), (num_classes + 1,)]:
        raise ValueError(f"counts must be ({num_classes + 1},), got {tuple(counts.shape)}")
    dtype = dtype_of_result(logits)
    labels = labels.long()
    is_counted = labels >= 0
    is_object = is_counted & (labels < num_classes)
    own = labels[is_object].unsqueeze(1)  # (V, 1)
    of_classes = logits[..., :num_classes][is_object].to(dtype)  # (V, C)
    log_counts = counts[:num_classes].detach().double().clamp(min=1).log().to(of_classes)
    mitigation = p * (log_counts - log_counts[own]).clamp(max=0)
    log_scores = of_classes.detach().log_softmax(dim=1)
    log_own = log_scores.gather(1, own).clamp(min=math.log(eps))
    compensation = q * (log_scores - log_own).clamp(min=0)
    of_own = (of_classes + mitigation + compensation).log_softmax(dim=1).gather(1, own)
    of_background, of_object = (logits[..., column][is_counted].to(dtype) for column in (-1, -2))
    is_background = labels[is_counted] == num_classes
    margin = torch.where(is_background, of_object - of_background, of_background - of_object)
    nothing = torch.zeros(labels.shape, dtype=dtype, device=logits.device)
    return _Rows(
        classes=nothing.masked_scatter(is_object, -of_own.squeeze(1)),
        objectness=nothing.masked_scatter(is_counted, F.softplus(margin)),
        is_object=is_object,
        is_counted=is_counted,
    )


def _check_options(p: float, q: float, eps: float) -> tuple[float, float, float]:
    return (
        check_option("p", p, low=0),
        check_option("q", q, low=0),
        check_option("eps", eps, low=0, high=1, open_low=True),
    )
