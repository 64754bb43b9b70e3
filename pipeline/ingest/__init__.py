"""Turn a corpus on disk into manifest rows."""
