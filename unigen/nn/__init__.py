"""Layers that backbones share, and how parameters lie on devices."""
