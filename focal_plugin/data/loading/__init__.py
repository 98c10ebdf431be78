"""Load the batches of a training."""
