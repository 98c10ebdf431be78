"""Turn runs into numbers."""
