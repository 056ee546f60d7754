"""Reads files from anywhere as uint8 images and captions, and reports those that it leaves out."""
