"""Hard example mining: losses in, a mask out. Each file holds one rule, as function and module."""

from .build import MINER_REGISTRY, Miner, build_miner
from .libra import instance_balanced_positives, iou_balanced_negatives
from .ohem import OHEMMiner, OHEMRatioMiner, ohem_keep_mask
from .score_hlr import score_hlr_negatives
from .ssd import SSDMiner, ssd_keep_mask
from .top_k import TopKMiner, top_k_keep_mask

__all__ = [
    "MINER_REGISTRY",
    "Miner",
    "OHEMMiner",
    "OHEMRatioMiner",
    "SSDMiner",
    "TopKMiner",
    "build_miner",
    "instance_balanced_positives",
    "iou_balanced_negatives",
    "ohem_keep_mask",
    "score_hlr_negatives",
    "ssd_keep_mask",
    "top_k_keep_mask",
]
