"""Let the model and the baselines answer the test split."""
