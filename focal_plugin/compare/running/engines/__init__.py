"""
What carries the runs of a sweep: processes of this machine, Ray, or Slurm.

Each engine calls :func:`~focal_plugin.compare.running.run_one.run_one`, which does all the work; an
engine says where, and with which GPUs and how many threads.
"""

from .base import Engine, Handle, Options, make_engine

__all__ = ["Engine", "Handle", "Options", "make_engine"]
