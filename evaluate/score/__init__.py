"""Turn predictions into numbers."""
