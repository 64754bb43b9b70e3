"""From a corpus on disk to manifest rows."""
