"""Runs, trained as processes on one machine or many: claimed, watched, taken up again."""
