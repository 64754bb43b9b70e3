"""Fetch published weights, and convert them to a folder in Hugging Face format."""
