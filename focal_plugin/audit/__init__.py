"""What the imbalance of a dataset is, as the anchors, matcher and losses of a config see it."""
