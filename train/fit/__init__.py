"""Train one stage: parameters, training loop, objectives, checkpoints."""
