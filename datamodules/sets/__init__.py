"""Readers of the published data sets, one file each, as records of named images (see `datamodules.sets.base`)."""
