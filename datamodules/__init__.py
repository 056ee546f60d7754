"""Data modules: readers of published sets and own folders, the bundled emoji, annotation graphs, pretraining data."""
