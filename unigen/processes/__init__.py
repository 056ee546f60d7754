"""Diffusion processes: how a time mixes data with noise, and what the network predicts at that time."""
