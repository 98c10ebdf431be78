"""Saving, selection and verification of checkpoints and weights."""
