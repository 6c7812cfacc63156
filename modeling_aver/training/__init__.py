"""Arguments, one training run, its Trainer, checkpoints, samplers, collation, feature cache."""
