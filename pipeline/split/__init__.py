"""Assign speakers to train, dev and test."""
