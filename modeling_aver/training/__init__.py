"""Training: arguments, batches, the Trainer, metrics and what a run leaves behind."""
