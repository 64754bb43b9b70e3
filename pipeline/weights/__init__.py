"""Weights, from where they are published to a folder in Hugging Face format."""
