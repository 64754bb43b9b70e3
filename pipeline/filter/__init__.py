"""Keep continuations that are usable targets."""
