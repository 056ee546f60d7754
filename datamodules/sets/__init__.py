"""Readers of the published data sets, one file each, as records of named pictures (see `datamodules.sets.base`)."""
