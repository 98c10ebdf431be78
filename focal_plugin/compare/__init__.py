"""
Comparison of arms over several seeds: from a spec to runs, and from runs to a report.

The package starts runs as processes and reads the files that they write. It never opens a
checkpoint.
"""
