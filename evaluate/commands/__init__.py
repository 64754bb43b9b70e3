"""Commands of `python -m evaluate` that are not stages, one file each."""
