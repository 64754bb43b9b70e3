"""The stage transcribe."""
