"""The speech LLM and its two training stages."""
