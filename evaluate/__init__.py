"""Evaluate a trained model: predictions, scores and the report."""
