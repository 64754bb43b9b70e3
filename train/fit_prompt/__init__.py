"""Learn an emotion prompt from text: its examples, its loss, its steps."""
