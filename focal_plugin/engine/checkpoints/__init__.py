"""Save, find and verify checkpoints and weights."""
