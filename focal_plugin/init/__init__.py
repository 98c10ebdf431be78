"""What to compare on a dataset of one's own: the config and the spec that a first try needs."""
