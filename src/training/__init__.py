"""Training: batches, optimiser, weight average, checkpoints, and what surrounds the steps."""
