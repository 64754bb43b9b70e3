"""Ratios of our way to the plain way, measured side by side in one run: `python -m benchmarks`."""
