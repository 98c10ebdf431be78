"""Two small Faster R-CNNs, ours and stock alike; `toy.toy_batch` is their batch."""

import torch
from detectron2.modeling import build_model

from .toy import NUM_CLASSES, narrow_cfg, resnet_cfg

STOCK = (
    "MODEL.PROPOSAL_GENERATOR.NAME", "RPN",
    "MODEL.RPN.HEAD_NAME", "StandardRPNHead",
    "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
    "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
)  # fmt: skip


def toy_rcnn_cfg(*opts):
    """Return the zoo's config with a smaller model."""
    return resnet_cfg("Base-FocalRCNN-FPN.yaml", "MODEL.ROI_BOX_HEAD.FC_DIM", 64, *opts)


def toy_rcnn(*opts):
    torch.manual_seed(0)
    return build_model(toy_rcnn_cfg(*opts))


def tiny_rcnn_cfg(*opts):
    shape = ("MODEL.ROI_HEADS.NUM_CLASSES", NUM_CLASSES, "MODEL.ROI_BOX_HEAD.FC_DIM", 16)
    return narrow_cfg("Shapes-Detection/faster_rcnn_small.yaml", *shape, *opts)


def tiny_rcnn(*opts):
    torch.manual_seed(0)
    return build_model(tiny_rcnn_cfg(*opts))
