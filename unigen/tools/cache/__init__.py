"""The commands of experiments/cache.py: they fill, check and tidy a cache of latents and text features."""
