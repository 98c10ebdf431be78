"""Report of a comparison: words, tables and figures from the numbers of the analysis."""
