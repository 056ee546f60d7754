"""Evaluation: benchmarks, scores with their protocol cards, statistics over items and seeds, and reading of runs."""
