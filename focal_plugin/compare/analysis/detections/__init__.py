"""Analyze the detections of the runs."""
