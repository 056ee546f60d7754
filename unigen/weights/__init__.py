"""Pretrained weights: locates and loads them, and reads and writes the LoRA files of every known program."""
