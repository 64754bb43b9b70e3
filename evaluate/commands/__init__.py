"""Commands that a person runs, beside the stages."""
