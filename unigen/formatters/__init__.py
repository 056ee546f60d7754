"""Formatters, which place the images of a sample in (t, h, w)."""
