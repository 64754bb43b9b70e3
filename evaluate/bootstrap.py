"""Empty: the bootstrap is gone (evaluate/intervals.py), but the import rules in pyproject.toml still name this file."""
