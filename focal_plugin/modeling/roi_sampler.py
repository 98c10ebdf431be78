"""
Sampling of the labeled RoIs of an image: `MODEL.FOCAL.ROI_HEADS.SAMPLER`.

Shape shorthand:
    R: number of labeled RoIs of an image
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import check_choice, check_count, check_option
from ..mining import (
    instance_balanced_positives,
    iou_balanced_negatives,
    score_hlr_negatives,
)
from ..mining.libra import IOU_RANGES
from ..mining.sampling import draw
from ..registry import ConfigurableModule, configurable

POSITIVES = ("random", "instance_balanced")
"""Legal values of `MODEL.FOCAL.ROI_HEADS.SAMPLER.POSITIVES`."""

NEGATIVES = ("random", "iou_balanced", "score_hlr")
"""Legal values of `MODEL.FOCAL.ROI_HEADS.SAMPLER.NEGATIVES`."""

_KEYS = "MODEL.FOCAL.ROI_HEADS.SAMPLER."


class LabeledRoIs(NamedTuple):
    """Labeled RoIs of an image, none of which is ignored."""

    is_positive: Tensor  # (R,), bool
    objects: Tensor  # (R,), int64, object of each positive
    max_iou: Tensor  # (R,), IoU with the best object; 0 in an image without objects


class ScoredRoIs(NamedTuple):
    """Predictions for the labeled RoIs of an image."""

    scores: Tensor  # (R,), largest probability of a class
    boxes: Tensor  # (R, 4), XYXY, decoded box of that class
    loss: Tensor  # (R,), classification loss


class RoISampler(ConfigurableModule):
    """
    Sampler of RoIs: draws positives by object and negatives by IoU or score.

    Fewer positives than their quota are made up by negatives, as in stock. The draws use PyTorch's
    global generator. (arXiv:1904.02701 section 3.1, arXiv:1904.04821.)

    Attributes:
        needs_scores: True if the sampler requires the predictions for all RoIs.
    """

    config_keys = {
        "positives": _KEYS + "POSITIVES",
        "negatives": _KEYS + "NEGATIVES",
        "num_bins": _KEYS + "NUM_BINS",
        "floor_thr": _KEYS + "FLOOR_THR",
        "floor_fraction": _KEYS + "FLOOR_FRACTION",
        "iou_range": _KEYS + "IOU_RANGE",
        "hlr_k": _KEYS + "HLR_K",
        "hlr_bias": _KEYS + "HLR_BIAS",
        "hlr_score_thresh": _KEYS + "HLR_SCORE_THRESH",
        "hlr_nms_thresh": _KEYS + "HLR_NMS_THRESH",
    }

    @configurable
    def __init__(
        self,
        *,
        positives: str = "random",
        negatives: str = "random",
        num_bins: int = 3,
        floor_thr: float = -1.0,
        floor_fraction: float = 0.0,
        iou_range: str = "negatives",
        hlr_k: float = 0.5,
        hlr_bias: float = 0.0,
        hlr_score_thresh: float = 0.05,
        hlr_nms_thresh: float = 0.5,
    ) -> None:
        """
        Initialize the sampler.

        Args:
            positives: "random" or "instance_balanced", see
                :func:`~focal_plugin.mining.instance_balanced_positives`.
            negatives: "random", "iou_balanced" or "score_hlr", see
                :func:`~focal_plugin.mining.iou_balanced_negatives` and
                :func:`~focal_plugin.mining.score_hlr_negatives`.
            num_bins, floor_thr, floor_fraction, iou_range: options of "iou_balanced".
            hlr_k, hlr_bias, hlr_score_thresh, hlr_nms_thresh: options of "score_hlr".

        Raises:
            ValueError: an option is outside its legal range.
        """
        super().__init__()
        self.positives = check_choice("positives", positives, POSITIVES)
        self.negatives = check_choice("negatives", negatives, NEGATIVES)
        self.num_bins = check_count("num_bins", num_bins, low=1)
        self.floor_thr = check_option("floor_thr", floor_thr, low=-1, high=1)
        self.floor_fraction = check_option("floor_fraction", floor_fraction, low=0, high=1)
        self.iou_range = check_choice("iou_range", iou_range, IOU_RANGES)
        self.hlr_k = check_option("hlr_k", hlr_k, low=0)
        self.hlr_bias = check_option("hlr_bias", hlr_bias, low=0, high=1)
        self.hlr_score_thresh = check_option("hlr_score_thresh", hlr_score_thresh, low=0, high=1)
        self.hlr_nms_thresh = check_option("hlr_nms_thresh", hlr_nms_thresh, low=0, high=1)
        self.needs_scores = negatives == "score_hlr"

    @torch.no_grad()
    @torch.jit.unused  # training only: the exported detector stays the stock one
    def sample(
        self,
        rois: LabeledRoIs,
        *,
        num_rois: int,
        max_positives: int,
        scored: ScoredRoIs | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Sample the RoIs of an image.

        Args:
            num_rois: number of RoIs to sample.
            max_positives: largest number of positives among them.
            scored: required if :attr:`needs_scores`.

        Returns:
            int64, indices of different RoIs, positives first; and the weights of their
            classification losses, or None for 1 each.
        """
        positives = rois.is_positive.nonzero().squeeze(1)
        if self.positives == "instance_balanced":
            of_objects = rois.objects[positives]
            chosen = instance_balanced_positives(of_objects, num_expected=max_positives)
            positives = positives[chosen]
        else:
            positives = draw(positives, max_positives)
        num_negatives = num_rois - len(positives)
        weights = None
        if scored is not None:
            candidates = (~rois.is_positive).nonzero().squeeze(1)
            chosen, of_chosen = score_hlr_negatives(
                *(values[candidates] for values in scored),
                num_expected=num_negatives,
                k=self.hlr_k,
                bias=self.hlr_bias,
                score_thresh=self.hlr_score_thresh,
                nms_thresh=self.hlr_nms_thresh,
            )
            negatives = candidates[chosen]
            weights = torch.cat([of_chosen.new_ones(len(positives)), of_chosen])
        elif self.negatives == "iou_balanced":
            negatives = iou_balanced_negatives(
                rois.max_iou,
                ~rois.is_positive,
                num_expected=num_negatives,
                num_bins=self.num_bins,
                floor_thr=self.floor_thr,
                floor_fraction=self.floor_fraction,
                range_of=self.iou_range,
            )
        else:
            negatives = draw((~rois.is_positive).nonzero().squeeze(1), num_negatives)
        return torch.cat([positives, negatives]), weights
