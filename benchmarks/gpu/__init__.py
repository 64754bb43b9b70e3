"""Benchmarks of the product on a GPU (docs/gpu.md)."""
