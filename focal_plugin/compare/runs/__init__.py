"""Read what the runs of a comparison left behind."""
