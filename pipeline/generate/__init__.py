"""The LLM writes continuations."""
