"""From corpora on disk to packed training data: ingest, split, generate, filter, pack."""
