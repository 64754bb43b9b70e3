"""Corpora on disk: their readers, and the clips that the readers return."""
