"""The command probe-links: where the emotion is lost on its way through a speech LLM."""
