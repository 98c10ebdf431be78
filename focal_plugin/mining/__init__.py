"""Hard example mining: losses in, a mask out. Each file holds one rule, as function and module."""

from .build import MINER_REGISTRY, Miner, build_miner
from .ohem import OHEMMiner, OHEMRatioMiner, ohem_keep_mask
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
    "ohem_keep_mask",
    "ssd_keep_mask",
    "top_k_keep_mask",
]
