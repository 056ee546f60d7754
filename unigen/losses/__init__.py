"""Losses: the elementwise error of a prediction, and the weighted mean that gives each role its share."""
