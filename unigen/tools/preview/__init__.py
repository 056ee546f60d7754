"""Previews: a page that shows, before any training, the samples, layouts, masks and tasks of an experiment."""
