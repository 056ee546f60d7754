"""Codecs, which encode clips as latents and decode them, and text encoders, which encode prompts as features."""
