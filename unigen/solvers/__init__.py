"""Solvers: the steps in which sampling goes from noise to data."""
