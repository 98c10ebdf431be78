"""The built-in dataset of shapes."""
