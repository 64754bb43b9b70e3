"""Turn packed rows into batches."""
