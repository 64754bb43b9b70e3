"""Check the LLM of a run, before it generates anything."""
