"""
Config locations of losses and miners in the two stages of Faster R-CNN.

For a dense detector, the components themselves declare their keys.
"""

from __future__ import annotations

from ..registry import ConfigScope

RPN = ConfigScope(
    moved={
        "MODEL.FOCAL.CLS_LOSS": "MODEL.FOCAL.RPN.CLS_LOSS",
        "MODEL.RETINANET.FOCAL_LOSS_ALPHA": "MODEL.FOCAL.RPN.CLS_LOSS.ALPHA",
        "MODEL.RETINANET.FOCAL_LOSS_GAMMA": "MODEL.FOCAL.RPN.CLS_LOSS.GAMMA",
        "MODEL.FOCAL.BOX_LOSS": "MODEL.FOCAL.RPN.BOX_LOSS",
        "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": "MODEL.RPN.BBOX_REG_LOSS_TYPE",
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": "MODEL.RPN.SMOOTH_L1_BETA",
        "MODEL.FOCAL.MINING": "MODEL.FOCAL.RPN.MINING",
        "MODEL.FOCAL.MINING.NUM_KEEP": "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
        "MODEL.FOCAL.NORMALIZER.NAME": "MODEL.FOCAL.RPN.NORMALIZER",
        "MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY": "MODEL.FOCAL.RPN.LOW_QUALITY",
        "MODEL.RETINANET.IOU_THRESHOLDS": "MODEL.RPN.IOU_THRESHOLDS",
        "MODEL.RETINANET.IOU_LABELS": "MODEL.RPN.IOU_LABELS",
    },
    fixed={"MODEL.RETINANET.NUM_CLASSES": 1},
)
"""Scope of :class:`~focal_plugin.modeling.rpn.FocalRPN`, whose single class is "object"."""

ROI_HEADS = ConfigScope(
    moved={
        "MODEL.FOCAL.CLS_LOSS": "MODEL.FOCAL.ROI_HEADS.CLS_LOSS",
        "MODEL.RETINANET.FOCAL_LOSS_ALPHA": "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.ALPHA",
        "MODEL.RETINANET.FOCAL_LOSS_GAMMA": "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.GAMMA",
        "MODEL.FOCAL.BOX_LOSS": "MODEL.FOCAL.ROI_HEADS.BOX_LOSS",
        "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
        "MODEL.FOCAL.MINING": "MODEL.FOCAL.ROI_HEADS.MINING",
        "MODEL.FOCAL.MINING.NUM_KEEP": "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
        "MODEL.RETINANET.NUM_CLASSES": "MODEL.ROI_HEADS.NUM_CLASSES",
    },
    fixed={
        "MODEL.FOCAL.CLS_LOSS.RANKING_SCOPE": "batch",
        "MODEL.FOCAL.MINING.NMS_BOXES": "anchors",
        "MODEL.FOCAL.MINING.BOX_LOSS_ON": "kept",
        "MODEL.FOCAL.MINING.DIVIDE_BY": "kept",
    },
)
"""
Scope of the box heads. Its fixed keys: a loss ranks the RoIs of all images together, mining
suppresses the RoIs by the proposal boxes, and both losses use the kept RoIs only.
"""
