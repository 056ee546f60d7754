"""Starts a process under Hydra, claims its run folder and handles requests to stop. Imports no torch."""
