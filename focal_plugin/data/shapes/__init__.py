"""Draw the built-in data set of shapes."""
