"""Transformers of diffusers, each family adapted to tokens with roles by one file."""
