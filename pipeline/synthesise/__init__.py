"""Make synthetic corpora."""
