"""What the trained model owes to hearing: predictions, scores and the report."""
