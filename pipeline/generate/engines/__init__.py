"""What runs the LLM: vLLM, a server, transformers, Ray."""
