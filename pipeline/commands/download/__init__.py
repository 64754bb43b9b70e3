"""Download corpora."""
