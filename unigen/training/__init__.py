"""Runs an experiment, from its configuration to its run folder."""
