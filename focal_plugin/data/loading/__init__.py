"""Loading of training batches."""
