"""Metrics: scores of generated images, each with a protocol that describes the measurement in words."""
