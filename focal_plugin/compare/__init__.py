"""
Arms x seeds: spec -> runs -> table and pictures.

Starts runs as processes and reads the files they write; never opens a checkpoint.
"""
