"""Assignment of objects to anchors: boxes in, the index of an object out. One file per rule."""

from .atss import atss_assign
from .paa import paa_assign
from .simota import simota_assign
from .task_aligned import tal_assign

__all__ = ["atss_assign", "paa_assign", "simota_assign", "tal_assign"]
