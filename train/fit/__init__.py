"""Train a stage: parameters, the loop, what it minimises, checkpoints."""
