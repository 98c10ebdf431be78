"""Analysis of detections against their ground truth."""
