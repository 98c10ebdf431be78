"""Finished runs of a comparison for the trackers of experiments that people use."""
