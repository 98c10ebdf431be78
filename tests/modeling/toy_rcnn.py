"""Two small Faster R-CNNs, ours and stock alike; `toy.toy_batch` is the batch for them."""

import torch
from detectron2.modeling import build_model

from focal_plugin import get_cfg

from ..conftest import ROOT

STOCK = (
    "MODEL.PROPOSAL_GENERATOR.NAME", "RPN",
    "MODEL.RPN.HEAD_NAME", "StandardRPNHead",
    "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
    "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
)  # fmt: skip


def toy_rcnn_cfg(*opts):
    """Base-FocalRCNN-FPN on a ResNet-18, 80 classes: the zoo's, but for its size."""
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs" / "Base-FocalRCNN-FPN.yaml"))
    cfg.merge_from_list(
        ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.DEVICE", "cpu"]
    )
    cfg.merge_from_list(["MODEL.ROI_BOX_HEAD.FC_DIM", 64, "MODEL.FPN.OUT_CHANNELS", 64])
    cfg.merge_from_list(list(opts))
    return cfg


def toy_rcnn(*opts):
    torch.manual_seed(0)
    return build_model(toy_rcnn_cfg(*opts))


def tiny_rcnn_cfg(*opts):
    """The laptop's Faster R-CNN with next to no channels, for what no weight decides."""
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/Shapes-Detection/Base-FasterRCNN-Small.yaml"))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    cfg.MODEL.FOCAL.SMALL_RESNET.WIDTHS = [8, 12, 16, 24]
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = 32  # a group norm has 32 groups
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(list(opts))
    return cfg


def tiny_rcnn(*opts):
    torch.manual_seed(0)
    return build_model(tiny_rcnn_cfg(*opts))
