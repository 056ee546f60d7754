"""The bundled emoji: images, names, splits, and an annotation graph on them."""
