"""Profiling: times and peak memory of unigen's parts, compared with stock models and with released codes."""
