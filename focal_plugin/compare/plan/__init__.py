"""Plan of a comparison: from its spec to its runs."""
