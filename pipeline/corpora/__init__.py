"""Readers of corpora from their published layouts: one file a corpus, which holds its CORPUS."""
