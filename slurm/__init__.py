"""Sweeps as SLURM arrays: a manifest, a batch script, and what became of each task."""
