"""Publish what may be passed on of a packed folder."""
