"""Compute scores from predictions."""
