"""Analysis of the runs of a comparison: numbers only, without words and pictures."""
