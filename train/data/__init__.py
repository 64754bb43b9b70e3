"""From packed rows to batches."""
