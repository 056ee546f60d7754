"""Data that the mini family is pretrained on: procedural clips, collages, stills and pairs."""
