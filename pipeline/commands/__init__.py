"""What a person asks of the pipeline: one file a command."""
