"""What the stages share that ask a trained model: finished batches, processes, and the choice of clips."""
