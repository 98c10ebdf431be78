"""First comparison on a dataset of one's own: its config and its spec."""
