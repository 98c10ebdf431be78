"""Hooks that record and control a training."""
