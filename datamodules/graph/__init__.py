"""Annotation graphs: named images of a record, the tasks between them, and samples drawn by key."""
