"""Turn a spec into the runs of a comparison."""
