"""Benchmarks, each of which measures our code and a plain alternative side by side in one run."""
