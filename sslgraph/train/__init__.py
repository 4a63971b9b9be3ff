"""Training: optimizers, checkpoints, the run folder and the loop."""
