"""The commands of `python -m pipeline`, one file for each."""
