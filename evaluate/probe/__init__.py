"""The stage probe."""
