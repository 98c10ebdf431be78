"""WHERE it plugs in: subclasses of Detectron2's classes that state only the difference."""

from .backbones import build_small_resnet_fpn_backbone
from .normalizer import build_normalizer
from .retinanet import FocalRetinaNet

__all__ = ["FocalRetinaNet", "build_normalizer", "build_small_resnet_fpn_backbone"]
