"""The configuration as data: the config folder, a command line checked against it, legal values. No torch."""
