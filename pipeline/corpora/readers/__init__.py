"""Readers of corpora from their published layouts, one file for each corpus."""
