"""Engines that run the LLM: vLLM, a server, transformers, Ray; and echo, which needs no LLM."""
