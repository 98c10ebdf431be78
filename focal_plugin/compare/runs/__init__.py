"""Readers of the files that the runs of a comparison leave."""
