"""Time and memory of each stage on a million rows."""
