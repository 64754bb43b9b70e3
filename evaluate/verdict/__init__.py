"""What the numbers of a run show, in words: for the report and the model card."""
