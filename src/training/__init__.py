"""Training: batches, optimisers, weight average, evaluation, checkpoints, interruption."""
