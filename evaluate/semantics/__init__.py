"""The stage semantics."""
