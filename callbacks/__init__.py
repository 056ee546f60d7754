"""Thin adapters to Lightning: checkpoints, strategies, loggers, and output during training."""
