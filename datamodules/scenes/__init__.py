"""Scenes drawn from the bundled glyphs, with every fact known: images, annotations, captions, a graph, and clips."""
