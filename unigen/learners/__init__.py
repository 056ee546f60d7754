"""Learners: Lightning modules that train a denoiser, a base model, the mini family's codec, or its judge."""
