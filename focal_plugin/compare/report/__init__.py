"""Write what a comparison has found, as a page, tables and figures."""
