"""Pairs of narrow detectors of every kind: ours at the default keys, and Detectron2's own."""

import torch
from detectron2.modeling import build_model

from focal_plugin.modeling.backbones import LastLevelSubsample
from focal_plugin.modeling.prior import without_automatic_priors

from .toy import narrow_cfg
from .toy_rcnn import STOCK

RETINANET = "Shapes-Detection/retinanet_small.yaml"
RCNN = "Shapes-Detection/faster_rcnn_small.yaml"

# The narrow model, for every base; few boxes, and an NMS that keeps a varying number
SMALL = (
    "MODEL.BACKBONE.NAME", "build_small_resnet_fpn_backbone",
    "MODEL.FOCAL.SMALL_RESNET.WIDTHS", [32, 64, 32, 64],
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM", 16,
    "MODEL.ROI_BOX_HEAD.CONV_DIM", 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM", 8,
    "MODEL.ROI_MASK_HEAD.NUM_CONV", 1,
    "MODEL.ROI_HEADS.NUM_CLASSES", 2,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0,
    "MODEL.RETINANET.NUM_CLASSES", 2,
    "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 20,
    "MODEL.RPN.PRE_NMS_TOPK_TEST", 10,
    "MODEL.RPN.NMS_THRESH", 0.5,
    "TEST.DETECTIONS_PER_IMAGE", 1000,
)  # fmt: skip

MASK = ("MODEL.MASK_ON", True)
KEYPOINT = ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8])
CASCADE = ("MODEL.ROI_HEADS.NAME", "FocalCascadeROIHeads")
CASCADE += ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)

PAIRS = {
    "retinanet": (RETINANET, (), ("MODEL.META_ARCHITECTURE", "RetinaNet")),
    "faster": (RCNN, (), STOCK),
    "mask": (RCNN, MASK, STOCK),
    "keypoint": (RCNN, KEYPOINT, STOCK),
    "cascade": (RCNN, CASCADE, (*STOCK, "MODEL.ROI_HEADS.NAME", "CascadeROIHeads")),
}


def make_model(file, *opts):
    torch.manual_seed(0)
    return build_model(without_automatic_priors(narrow_cfg(file, *SMALL, *opts))).eval()


def make_pair(name, *more):
    """Return our detector at the default keys except ``more``, and Detectron2's own."""
    file, opts, stock = PAIRS[name]
    opts = (*opts, *more)
    ours, theirs = make_model(file, *opts), make_model(file, *opts, *stock)
    parts = [type(x) for x in theirs.modules()]
    assert {x.__module__ for x in parts if x.__module__.startswith("focal")} <= {
        LastLevelSubsample.__module__
    }
    return ours, theirs
