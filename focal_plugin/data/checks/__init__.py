"""Find what is wrong with a data set before it trains."""
