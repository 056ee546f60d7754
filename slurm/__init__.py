"""Runs sweeps as SLURM arrays: a manifest, a batch script, and the state of each task."""
