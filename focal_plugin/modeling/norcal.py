"""
Calibration of the class probabilities of a box head by the frequency of the classes.

Shape shorthand:
    R: number of RoIs of all images of the batch
    K: number of classes
"""

from __future__ import annotations

from typing import ClassVar

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import PerClass, check_option, check_per_class


class NorCal(nn.Module):
    """
    Normalized calibration (NorCal) of a softmax classifier, in evaluation only.

        p_k  = exp(x_k) / n_k^gamma / s,  p_bg = exp(x_bg) / s,  s such that all p sum to 1

    n_k is the number of training images with class k. The background is left as it is. Subtracting
    gamma * log(n_k) from the logit x_k is equivalent, and cannot overflow. (arXiv:2107.02170.)

    Reported:
        none on COCO; LVIS v0.5 only
    """

    config_keys: ClassVar[dict[str, str]] = {
        "gamma": "MODEL.FOCAL.ROI_HEADS.NORCAL_GAMMA",
        "images_per_class": "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS",
    }

    def __init__(self, *, gamma: float, images_per_class: PerClass = ()) -> None:
        """
        Initialize the calibration.

        Args:
            gamma: power of the number of images, >= 0; 0 changes nothing.
            images_per_class: K numbers >= 0. A class without images counts as one with one image.
                Without the numbers, the module can be built but not called.

        Raises:
            ValueError: an option is outside its legal range; the message names its full key.
        """
        super().__init__()
        gamma = check_option(self.config_keys["gamma"], gamma, low=0)
        images = check_per_class(self.config_keys["images_per_class"], images_per_class, low=0)
        log_images = torch.tensor(images, dtype=torch.float64).clamp(min=1).log()
        self.shift: Tensor  # (K+1,)
        self.register_buffer("shift", F.pad(gamma * log_images, (0, 1)).float(), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """
        Shift the logits, so that their softmax is calibrated.

        Args:
            logits: (R, K+1), the background last.

        Returns:
            float32 (R, K+1).

        Raises:
            ValueError: there is not one number of images for each class.
        """
        if logits.shape[1] != self.shift.shape[0]:
            raise ValueError(
                "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS must be one number for each "
                "class, because MODEL.FOCAL.ROI_HEADS.NORCAL_GAMMA is not 0"
            )
        return logits.float() - self.shift


def build_norcal(cfg: CfgNode) -> NorCal | None:
    """
    Build the calibration of a box head; None if its gamma is 0.

    Raises:
        ValueError: an option is outside its legal range; the message names its full key.
    """
    roi_heads = cfg.MODEL.FOCAL.ROI_HEADS
    if roi_heads.NORCAL_GAMMA == 0:
        return None
    return NorCal(
        gamma=roi_heads.NORCAL_GAMMA, images_per_class=roi_heads.CLS_LOSS.SAMPLES_PER_CLASS
    )
