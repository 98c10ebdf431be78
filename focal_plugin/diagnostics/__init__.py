"""What a loss does to the anchors of a batch: which of them it comes from, and its gradient."""
