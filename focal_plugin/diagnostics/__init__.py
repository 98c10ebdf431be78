"""Diagnostics of a loss on a batch: the share of each anchor, and its gradient."""
