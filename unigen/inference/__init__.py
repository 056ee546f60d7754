"""Sampling with an exported run from a user's own images: a task's conditions, or a visual prompt of rows."""
