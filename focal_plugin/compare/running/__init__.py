"""Training of the runs as processes, on one machine or on several that share a folder."""
