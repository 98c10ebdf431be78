"""Start, connection and shutdown of the processes of a training."""
