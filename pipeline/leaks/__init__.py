"""Find what train and test share."""
