"""Find what test shares with train and dev."""
