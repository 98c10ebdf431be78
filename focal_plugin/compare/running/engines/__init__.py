"""
Engines that train the runs of a sweep: processes of this machine, Ray, or Slurm.

Each engine calls :func:`~focal_plugin.compare.running.run_one.run_one`, which does all the work. An
engine only chooses the machine, the GPUs and the number of threads.
"""

from .base import Engine, Handle, Options, make_engine

__all__ = ["Engine", "Handle", "Options", "make_engine"]
