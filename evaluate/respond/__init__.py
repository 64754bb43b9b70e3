"""Let the model and its controls answer the test part."""
